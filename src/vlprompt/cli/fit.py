"""The command ``vlprompt fit``, whose flags depend on the method."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from vlprompt.cli.config_file import config_text
from vlprompt.cli.console import show
from vlprompt.cli.method_flags import early, parse
from vlprompt.methods import get_method
from vlprompt.methods.registry import is_file
from vlprompt.progress import say, spoken

if TYPE_CHECKING:
    from vlprompt.dataset import Dataset
    from vlprompt.estimator.classifier import PromptClassifier


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What every method is trained with."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """images: a folder of class folders (or with train/ and test/), a CSV file, toy:TASK, a benchmark's
    name, or hub:OWNER/NAME; or texts: a CSV file or hub:OWNER/NAME"""
    out: Path
    """folder of the tuned classifier; a cut-off run goes on where it was"""
    method: str = "coop"
    """method by name ('vlprompt methods' lists them) or your own file my_method.py"""
    model: str = "toy"
    """frozen backbone: 'toy', 'toy-deep', a local folder, or a hub id such as openai/clip-vit-base-patch16;
    an image encoder alone or, for texts, a language model, too"""
    shots: int | None = 16
    """training images a class; None takes all"""
    root: Path | None = None
    """folder of the benchmark's data sets"""
    text_column: str = "text"
    """column of the texts, where the data holds texts"""
    label_column: str = "label"
    """column of their labels"""
    preset: str = ""
    """another published setting of the method"""
    lengths: Path | None = None
    """lengths.json of a search: the context length of every layer"""
    augment: Literal["auto", "crop+flip", "crop", "gentle", "none"] = "auto"
    """augmentation in training; auto is the published one, and none for the built-in backbones"""
    views: int = 0
    """augmented views computed once, for methods without visual prompts; 0 draws fresh ones"""
    templates: tuple[str, ...] = ()
    """hand-crafted prompts, each with {}; the data set's own by default"""
    seed: int = 1
    """seed of sampling and training"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: what is frozen in bfloat16 where fast and harmless; bf16, fp16: training, too; no: float32"""
    clip_grad: float | None = None
    """largest gradient norm"""
    track: str = ""
    """log every epoch with a tracker of accelerate: tensorboard, wandb, mlflow"""
    force: bool = False
    """replace the output whoever made it"""
    plan: bool = False
    """only say what it would cost: images, steps, time and memory, from a few measured steps"""
    json: bool = False
    """print one JSON object instead of a table"""


TRAINED_BY = ("augment", "views", "seed", "device", "precision", "clip_grad")
"""Options that are the classifier's own parameters."""


def fit(argv: Sequence[str]) -> None:
    """Train a classifier on labelled images."""
    options, settings = _parse(argv)

    from vlprompt import data
    from vlprompt.estimator import artifact
    from vlprompt.estimator.text import classifier_for
    from vlprompt.jobs import fit as job
    from vlprompt.jobs.left_out import leave_out
    from vlprompt.methods.lengths import Lengths

    changed = dataclasses.asdict(settings)
    if options.lengths:
        changed = job.with_lengths(options.method, changed, Lengths.load(options.lengths))
    columns = data.Columns(options.text_column, options.label_column)
    pool = data.load(options.data, options.root, columns)
    dataset = data.few_shot(pool, options.shots, options.seed, strict=True)
    if options.templates:
        dataset = dataclasses.replace(dataset, templates=options.templates)
    kind = classifier_for(dataset)
    known = kind().get_params()  # a classifier of texts takes fewer
    how = {name: getattr(options, name) for name in TRAINED_BY if name in known}
    classifier = kind(options.method, options.model, changed, options.preset, verbose=True, **how)
    if options.plan:
        _show_plan(classifier, dataset, options.json)
        return
    command = "vlprompt fit " + shlex.join(argv)
    files = {"fit.yaml": config_text(options, changed)}
    keep: dict[str, Any] = {
        "command": command,
        "track": options.track,
        "files": files,
        "force": options.force,
    }
    if artifact.first_process() and (before := job.finished(options.out)):
        say(f"'{options.out}' holds {before}: it is replaced when this run is finished")
    run = job.fit(classifier, dataset, options.out, **keep)
    counts = {"classes": len(dataset.classnames), "train": len(dataset.train)}
    result: dict[str, Any] = {"out": str(options.out), **counts, "seconds": round(run.seconds or 0, 1)}
    result |= run.measured
    if classifier.method_.for_new_classes and (tried := leave_out(classifier, dataset)):
        result["left out"] = tried
    if artifact.first_process():
        show(result, options.json)
        if not options.json:
            _show_end(options, dataset, measured=bool(run.measured))


def _show_plan(classifier: PromptClassifier, dataset: Dataset, as_json: bool) -> None:
    """What the training would cost."""
    from vlprompt.estimator.cost import estimate

    cost = estimate(classifier, dataset)
    images = {split: len(getattr(dataset, split)) for split in ("train", "val", "test")}
    if as_json:
        plain = {"steps": cost.steps, "seconds": round(cost.seconds, 1), "memory": cost.memory}
        show({"images": images, "classes": len(dataset.classnames)} | plain | {"faster": cost.faster}, True)
        return
    result = {"images": images, "classes": len(dataset.classnames), "steps": cost.steps}
    result |= {"time": f"about {spoken(cost.seconds)}", "memory": f"about {cost.memory / 1e9:.1f} GB"}
    show(result | ({"faster": cost.faster} if cost.faster else {}), False)


def _show_end(options: FitOptions, dataset: Dataset, measured: bool) -> None:
    """Where everything is, and what to do next."""
    out = shlex.quote(str(options.out))
    method = shlex.join(["--method", options.method]) if is_file(options.method) else ""
    one, many = ("'a text'", "labelled.csv") if dataset.texts else ("photo.jpg", "labelled_photos/")
    if not measured:
        print("test       not measured: nothing was left for testing; give fewer --shots, or more examples")
    print(
        f"\nEverything is in {out}, {options.out / 'report.html'} opens in a browser. Next:\n"
        f"  vlprompt predict {out} {one} {method}".rstrip()
        + f"\n  vlprompt evaluate {out} {many} {method}".rstrip()
    )


def _parse(argv: Sequence[str]) -> tuple[FitOptions, Any]:
    """Options of ``fit``, and the settings of the method that they name."""
    kind = get_method(early(argv, "--method", FitOptions.method), files=True)
    preset, shots = early(argv, "--preset", ""), early(argv, "--shots", str(FitOptions.shots))
    changes = kind.preset(preset)
    published = kind.settings_for(int(shots) if shots.isdecimal() and len(shots) < 10 else None, **changes)
    about = f"{(fit.__doc__ or '').strip()} Settings below are those of {kind.title} ({kind.name})."
    return parse("fit", about, FitOptions, published, argv)
