"""The command ``vlprompt distill``, whose settings are PromptKD's."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vlprompt.cli.console import show
from vlprompt.cli.method_flags import early, parse
from vlprompt.methods import get_method

METHOD = "promptkd"


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """What to learn from, and with what."""

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE")]
    """images without labels: files, folders (searched), patterns; of the kind that the classifier is for"""
    out: Path
    """folder of the small classifier; a cut-off run goes on where it was"""
    model: str = "toy"
    """frozen backbone of the small classifier: 'toy', a local folder, or a hub id"""
    preset: str = ""
    """another published setting"""
    augment: Literal["auto", "crop+flip", "crop", "gentle", "none"] = "auto"
    """augmentation, of which the teacher sees the same view; with none it answers every image once"""
    seed: int = 1
    """seed of training"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto and no: float32; bf16, fp16: mixed precision"""
    force: bool = False
    """replace the output whoever made it"""
    json: bool = False
    """print one JSON object instead of a table"""


def distill(argv: Sequence[str]) -> None:
    """Train a small classifier to answer as a larger one does, on images without labels.

    This is transductive: it learns on the very kind of images that it is for. Its accuracy does not compare
    with that of a few labelled images.
    """
    kind = get_method(METHOD)
    published = kind.settings_for(None, **kind.preset(early(argv, "--preset", "")))
    options, settings = parse("distill", distill.__doc__ or "", DistillOptions, published, argv)

    from vlprompt import data
    from vlprompt.estimator import artifact
    from vlprompt.estimator.classifier import PromptClassifier
    from vlprompt.estimator.fitting import check_required
    from vlprompt.estimator.teacher import unlabelled
    from vlprompt.jobs import fit as job

    check_required(kind, settings)
    name = ", ".join(options.images)
    dataset = unlabelled(data.find_images(options.images), settings.teacher, name)
    how = {key: getattr(options, key) for key in ("augment", "seed", "device", "precision")}
    changed = dataclasses.asdict(settings)
    classifier = PromptClassifier(METHOD, options.model, changed, options.preset, verbose=True, **how)
    command = "vlprompt distill " + shlex.join(argv)
    run = job.fit(classifier, dataset, options.out, command=command, force=options.force)
    result = {"out": str(options.out), "classes": len(dataset.classnames), "images": len(dataset.train)}
    if artifact.first_process():
        show(result | {"seconds": round(run.seconds or 0, 1)}, options.json)
