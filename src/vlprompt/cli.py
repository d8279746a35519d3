"""The command ``vlprompt``."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.logging import RichHandler
from rich.table import Table
from transformers.utils import logging as transformers_logging
from tyro.conf import OmitArgPrefixes, Positional, arg

from vlprompt.errors import UserError
from vlprompt.progress import console


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What every method is trained with."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """images: a folder of class folders (or with train/ and test/), a CSV file, toy:TASK, a benchmark's
    name, or hub:OWNER/NAME"""
    out: Path
    """folder of the tuned classifier; a cut-off run goes on where it was"""
    method: str = "dpl"
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
    augment: Literal["auto", "crop+flip", "crop", "none"] = "auto"
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
    json: bool = False
    """print one JSON object instead of a table"""


def fit(argv: Sequence[str]) -> None:
    """Train a classifier on labelled images."""
    from vlprompt import artifact, data
    from vlprompt.classifier import PromptClassifier
    from vlprompt.lengths import Lengths
    from vlprompt.methods import get_method
    from vlprompt.report import Run, write_report

    kind = get_method(_early(argv, "--method", "dpl"))
    preset = _early(argv, "--preset", "")
    shots = _early(argv, "--shots", "16")
    changes = kind.preset(preset) if preset else {}
    published = kind.settings_for(int(shots) if shots.isdigit() else None, **changes)
    options, settings = _parse_fit(argv, kind, published)
    changed = dataclasses.asdict(settings)
    if options.lengths:
        found = Lengths.load(options.lengths)
        if "text_lengths" not in changed:
            raise UserError(
                f"method '{kind.name}' takes no lengths: use a method with prompts in every layer"
            )
        changed |= {"text_lengths": found.text, "vision_lengths": found.vision}
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
        classifier.fit_dataset(dataset, beside / "checkpoints")
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
        artifact.drop_checkpoints(beside)
    result = {"out": str(options.out), "classes": len(dataset.classnames), "train": len(dataset.train)}
    _show(result | {"seconds": round(seconds, 1)} | measured, options.json)


def _parse_fit(argv: Sequence[str], kind: Any, published: Any) -> tuple[FitOptions, Any]:
    """Options of ``fit`` and the settings of its method, from one flat list of flags."""

    @dataclass(frozen=True, kw_only=True)
    class Fit:
        options: FitOptions
        settings: kind.Settings = published

    Fit.__annotations__["settings"] = kind.Settings
    title = f"Train a classifier on labelled images. Settings below are those of {kind.title} ({kind.name})."
    parsed = tyro.cli(OmitArgPrefixes[Fit], prog="vlprompt fit", description=title, args=list(argv))
    return parsed.options, parsed.settings


def _early(argv: Sequence[str], flag: str, default: str) -> str:
    """A flag's value before the parser is built, which depends on it."""
    for index, word in enumerate(argv):
        if word == flag and index + 1 < len(argv):
            return argv[index + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return default


def predict(
    classifier: Positional[Path],
    images: Positional[tuple[str, ...]],
    /,
    top: int = 1,
    classes: tuple[str, ...] = (),
    format: Literal["table", "json", "csv"] = "table",
    model: str = "",
    device: str = "auto",
) -> None:
    """Predict the classes of images.

    Args:
        classifier: folder of a tuned classifier.
        images: files, folders or patterns such as 'photos/*.jpg'.
        top: number of classes shown for each image.
        classes: other class names than those trained on.
        format: table, json or csv.
        model: where the backbone is, if not where it was in training.
        device: auto, cpu, cuda, mps.
    """
    from vlprompt.classifier import PromptClassifier
    from vlprompt.data import find_images

    paths = find_images(images)
    tuned = PromptClassifier.load(classifier, model, device)
    tuned.verbose = True
    if classes:
        tuned.set_classes(classes)
    rows = [
        {"image": str(path), "class": tuned.classnames_[k], "probability": round(float(p[k]), 6)}
        for path, p in zip(paths, tuned.predict_proba(paths), strict=True)
        for k in np.argsort(-p, kind="stable")[: max(top, 1)]
    ]
    _rows(rows, format)


def evaluate(
    classifier: Positional[Path],
    data: Positional[str],
    /,
    root: Path | None = None,
    model: str = "",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Measure a classifier on labelled images.

    Args:
        classifier: folder of a tuned classifier.
        data: a folder of class folders, or anything that 'vlprompt fit' takes; its test images where
            it has them, otherwise all.
        root: folder of the benchmark's data sets.
        model: where the backbone is, if not where it was in training.
        device: auto, cpu, cuda, mps.
        json: print one JSON object.
    """
    from vlprompt.classifier import PromptClassifier
    from vlprompt.data import load

    dataset = load(data, root)
    tuned = PromptClassifier.load(classifier, model, device)
    tuned.verbose = True
    items = dataset.test or dataset.train
    if dataset.classnames != tuned.classnames_:
        unknown = [name for name in dataset.classnames if name not in tuned.classnames_]
        if unknown:
            raise UserError(
                f"class '{unknown[0]}' of '{data}' is not one of the classifier's {len(tuned.classnames_)} "
                "classes: rename its folder or leave it out"
            )
        position = [tuned.classnames_.index(name) for name in dataset.classnames]
        items = [item._replace(label=position[item.label]) for item in items]
    _show({"test": tuned.evaluate(items)}, json)


def methods(model: str = "toy", json: bool = False) -> None:
    """List the methods: paper, year, what is learned, number of parameters.

    Args:
        model: backbone for which parameters are counted.
        json: print a JSON list.
    """
    from vlprompt import backbone
    from vlprompt.encoder import Encoder
    from vlprompt.methods import all_methods

    encoder = Encoder(backbone.load(model))
    rows = []
    for name, kind in all_methods().items():
        method = kind(encoder, ("cat", "dog"))
        stage = method.first_stage() or method
        count = sum(p.numel() for p in stage.parameters() if p.requires_grad)
        rows.append(
            {
                "method": name,
                "title": kind.title,
                "year": kind.year,
                "paper": f"arXiv {kind.paper}",
                "learns": kind.learns,
                "parameters": count,
                "presets": ", ".join(kind.presets),
            }
        )
    _rows(rows, "json" if json else "table")


def data(action: Positional[Literal["check"]], root: Positional[Path], /, json: bool = False) -> None:
    """Check which of the benchmark's data sets are there and complete.

    Args:
        action: 'check' compares every data set with the published counts.
        root: folder of the data sets, laid out as for CoOp.
        json: print a JSON list.
    """
    from vlprompt.data.benchmark import check

    if not root.is_dir():
        raise UserError(f"root '{root}' is no folder: give the folder that holds the data sets")
    _rows(check(root), "json" if json else "table")


def toy(action: Positional[Literal["pretrain"]], /, out: Path = Path("toy-backbone"), seed: int = 0) -> None:
    """Train the built-in backbone again, from nothing.

    Args:
        action: 'pretrain' renders the pictures and trains on them.
        out: folder for the backbone.
        seed: seed of everything.
    """
    from vlprompt.toy.pretrain import pretrain

    pretrain(out, seed=seed)
    console.print(f"backbone written to {out}")


def demo(
    out: Path = Path("out/demo"), seeds: tuple[int, ...] = (1,), shots: int = 16, json: bool = False
) -> None:
    """Zero-shot CLIP, CoOp and DPL side by side on real handwritten digits, with the toy backbone.

    Args:
        out: folder for the tuned prompts and report.html.
        seeds: several give a mean and a standard deviation.
        shots: training images a class; four more are for validation, the rest is for testing.
        json: print one JSON object.
    """
    from vlprompt.demo import run

    run(out, seeds, shots, json)


COMMANDS: dict[str, Callable[..., None]] = {
    "fit": fit,
    "predict": predict,
    "evaluate": evaluate,
    "methods": methods,
    "data": data,
    "demo": demo,
    "toy": toy,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    log = logging.getLogger("vlprompt")
    log.addHandler(RichHandler(console=console, show_time=False, show_path=False, markup=False))
    log.setLevel(logging.INFO)
    if not words or words[0] in ("-h", "--help", "--version"):
        _help(version=bool(words) and words[0] == "--version")
        return 0 if words else 2
    try:
        command = COMMANDS.get(words[0])
        if command is None:
            raise UserError(f"unknown command '{words[0]}': there are {', '.join(COMMANDS)}")
        if command is fit:
            fit(words[1:])
        else:
            tyro.cli(command, prog=f"vlprompt {words[0]}", args=words[1:])
    except UserError as error:
        print(f"vlprompt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlprompt: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _help(version: bool) -> None:
    from vlprompt import __version__

    if version:
        print(f"vlprompt {__version__}")
        return
    print("usage: vlprompt COMMAND ...\n")
    for name, command in COMMANDS.items():
        print(f"  {name:10} {(command.__doc__ or '').splitlines()[0]}")
    print("\n'vlprompt COMMAND --help' explains a command.")


def _show(result: dict[str, Any], as_json: bool) -> None:
    """A result as one JSON object, or as lines."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(
                f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
            )
        print(f"{key:10} {value}")


def _rows(rows: Sequence[dict[str, Any]], form: Literal["table", "json", "csv"]) -> None:
    """Rows of equal keys as a table, JSON or CSV on standard output."""
    if form == "json":
        print(json.dumps(list(rows), ensure_ascii=False))
    elif form == "csv":
        import csv

        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    else:
        from rich.console import Console

        table = Table(*(rows[0] if rows else []))
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        Console().print(table, markup=False)


if __name__ == "__main__":
    sys.exit(main())
