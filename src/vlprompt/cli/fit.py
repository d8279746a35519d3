"""The commands ``fit`` and ``search``, whose flags depend on the method."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from vlprompt import data
from vlprompt.cli.config_file import write_config
from vlprompt.cli.console import show
from vlprompt.errors import UserError
from vlprompt.estimator import artifact
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.jobs.search import SearchOptions
from vlprompt.jobs.search import run as run_search
from vlprompt.methods import get_method
from vlprompt.methods.dpl import DPL
from vlprompt.methods.lengths import Lengths
from vlprompt.reports.training import Run, write_report
from vlprompt.training.tracking import tracked


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What every method is trained with."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """images: a folder of class folders (or with train/ and test/), a CSV file, toy:TASK, a benchmark's
    name, or hub:OWNER/NAME"""
    out: Path
    """folder of the tuned classifier; a cut-off run goes on where it was"""
    method: str = "coop"
    """method by name ('vlprompt methods' lists them) or your own file my_method.py"""
    model: str = "toy"
    """frozen backbone: 'toy', a local folder, or a hub id such as openai/clip-vit-base-patch16"""
    shots: int | None = 16
    """training images a class; None takes all"""
    root: Path | None = None
    """folder of the benchmark's data sets"""
    preset: str = ""
    """another published setting of the method"""
    lengths: Path | None = None
    """lengths.json of a search: the context length of every layer"""
    augment: Literal["auto", "crop+flip", "crop", "gentle", "none"] = "auto"
    """augmentation in training; auto is the published one, and none for 'toy'"""
    views: int = 0
    """augmented views computed once, for methods without visual prompts; 0 draws fresh ones"""
    templates: tuple[str, ...] = ()
    """hand-crafted prompts, each with {}; the data set's own by default"""
    seed: int = 1
    """seed of sampling and training"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """mixed precision"""
    clip_grad: float | None = None
    """largest gradient norm"""
    track: str = ""
    """log every epoch with a tracker of accelerate: tensorboard, wandb, mlflow"""
    json: bool = False
    """print one JSON object instead of a table"""


def fit(argv: Sequence[str]) -> None:
    """Train a classifier on labelled images."""
    options, settings = _parse(argv)
    changed = _with_lengths(options, dataclasses.asdict(settings))
    dataset = data.few_shot(data.load(options.data, options.root), options.shots, options.seed, strict=True)
    if options.templates:
        dataset = dataclasses.replace(dataset, templates=options.templates)
    classifier = PromptClassifier(
        options.method,
        options.model,
        changed,
        options.preset,
        augment=options.augment,
        views=options.views,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        clip_grad=options.clip_grad,
        verbose=True,
    )
    with artifact.folder_beside(options.out) as beside:
        start = time.perf_counter()
        with tracked(options.track, beside / "logs", options) as on_epoch:
            classifier.fit_dataset(dataset, beside / "checkpoints", on_epoch)
        seconds = time.perf_counter() - start
        measured = {"test": classifier.evaluate(dataset.test)} if dataset.test else {}
        classifier.save_into(beside, measured)
        method = classifier.method_
        run = Run(
            method.title,
            options.method,
            options.seed,
            measured,
            classifier.history_,
            getattr(method, "lengths", None),
            seconds,
            classifier.classnames_,
        )
        command = "vlprompt fit " + shlex.join(argv)
        title = f"{method.title} on {dataset.name}"
        write_report(beside / "report.html", [run], title=title, dataset=dataset.name, command=command)
        write_config(beside / "fit.yaml", options, changed)
        artifact.drop_checkpoints(beside)
    result = {"out": str(options.out), "classes": len(dataset.classnames), "train": len(dataset.train)}
    if artifact.first_process():
        show(result | {"seconds": round(seconds, 1)} | measured, options.json)


def search(argv: Sequence[str]) -> None:
    """Find the context length of every layer and write it as a file."""
    preset = _early(argv, "--preset", "")
    published = DPL.Settings(**DPL.preset(preset))
    options, settings = _flags("search", search.__doc__ or "", SearchOptions, published, argv)
    result = run_search(options, settings, argv)
    if options.json:
        show(result, True)


def _parse(argv: Sequence[str]) -> tuple[FitOptions, Any]:
    """Options of ``fit``, and the settings of the method that they name."""
    kind = get_method(_early(argv, "--method", FitOptions.method))
    preset, shots = _early(argv, "--preset", ""), _early(argv, "--shots", str(FitOptions.shots))
    changes = kind.preset(preset)
    published = kind.settings_for(int(shots) if shots.isdigit() else None, **changes)
    about = f"{(fit.__doc__ or '').strip()} Settings below are those of {kind.title} ({kind.name})."
    return _flags("fit", about, FitOptions, published, argv)


def _flags(command: str, about: str, options: type, settings: Any, argv: Sequence[str]) -> tuple[Any, Any]:
    """Options and a method's settings from one flat list of flags."""
    together = dataclasses.make_dataclass(
        "Flags",
        [("options", options), ("settings", type(settings), dataclasses.field(default=settings))],
        kw_only=True,
        frozen=True,
    )
    parsed: Any = tyro.cli(
        OmitArgPrefixes[together],  # type: ignore[valid-type]
        prog=f"vlprompt {command}",
        description=about,
        args=list(argv),
    )
    return parsed.options, parsed.settings


def _with_lengths(options: FitOptions, changed: dict[str, Any]) -> dict[str, Any]:
    """The settings with the lengths of a file, for the branches that the method prompts in every layer."""
    if not options.lengths:
        return changed
    found = Lengths.load(options.lengths)
    both = {"text_lengths": found.text, "vision_lengths": found.vision}
    known = {name: lengths for name, lengths in both.items() if name in changed}
    if not known:
        raise UserError(
            f"method '{options.method}' takes no lengths: use a method with prompts in every layer"
        )
    return changed | known


def _early(argv: Sequence[str], flag: str, default: str) -> str:
    """A flag's value before the parser is built, which depends on it."""
    for index, word in enumerate(argv):
        if word == flag and index + 1 < len(argv):
            return argv[index + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return default
