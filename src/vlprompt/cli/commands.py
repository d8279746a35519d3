"""The commands that use a tuned classifier or tell what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from tyro.conf import Positional

from vlprompt.cli.console import show, show_rows
from vlprompt.errors import UserError
from vlprompt.progress import console


def predict(
    classifier: Positional[Path],
    images: Positional[tuple[str, ...]],
    /,
    top: int = 1,
    classes: tuple[str, ...] = (),
    format: Literal["table", "json", "csv"] = "table",
    model: str = "",
    device: str = "auto",
    method: str = "",
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
        method: file of the method, where it was one of your own.
    """
    from vlprompt.data import find_images
    from vlprompt.estimator.classifier import PromptClassifier

    if not images:
        raise UserError("no images: name files, folders or patterns after the classifier's folder")
    paths = find_images(images)
    tuned = PromptClassifier.load(classifier, model, device, method)
    tuned.verbose = True
    if classes:
        tuned.set_classes(classes)
    rows = [
        {"image": str(path), "class": tuned.classnames_[k], "probability": round(float(p[k]), 6)}
        for path, p in zip(paths, tuned.predict_proba(paths), strict=True)
        for k in np.argsort(-p, kind="stable")[: max(top, 1)]
    ]
    show_rows(rows, format)


def evaluate(
    classifier: Positional[Path],
    data: Positional[str],
    /,
    root: Path | None = None,
    model: str = "",
    device: str = "auto",
    method: str = "",
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
        method: file of the method, where it was one of your own.
        json: print one JSON object.
    """
    from vlprompt.data import load
    from vlprompt.estimator.classifier import PromptClassifier

    dataset = load(data, root)
    tuned = PromptClassifier.load(classifier, model, device, method)
    tuned.verbose = True
    items = dataset.test or (*dataset.train, *dataset.val)
    if dataset.classnames != tuned.classnames_:
        unknown = [name for name in dataset.classnames if name not in tuned.classnames_]
        if unknown:
            raise UserError(
                f"class '{unknown[0]}' of '{data}' is not one of the classifier's {len(tuned.classnames_)} "
                "classes: rename its folder or leave it out"
            )
        position = [tuned.classnames_.index(name) for name in dataset.classnames]
        items = [item._replace(label=position[item.label]) for item in items]
    show({"test": tuned.evaluate(items)}, json)


def methods(model: str = "toy", json: bool = False) -> None:
    """List the methods: paper, year, what is learned, number of parameters.

    Args:
        model: backbone for which parameters are counted.
        json: print a JSON list.
    """
    from vlprompt.engine.backbones.load import load_backbone
    from vlprompt.engine.encoder import Encoder
    from vlprompt.methods import all_methods

    encoder = Encoder(load_backbone(model))
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
    show_rows(rows, "json" if json else "table")


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
    show_rows(check(root), "json" if json else "table")


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
    from vlprompt.jobs.demo import run

    run(out, seeds, shots, json)


def report(results: Positional[Path], /, out: Path = Path("report.html"), tables: Path | None = None) -> None:
    """Make the page, and the tables of a paper, from a benchmark's results.

    Args:
        results: results.jsonl of 'vlprompt bench', or its folder.
        out: the page.
        tables: folder for tables.md and tables.tex.
    """
    from vlprompt.benchmark.report import write_bench_report
    from vlprompt.benchmark.store import Store
    from vlprompt.benchmark.tables import latex_tables, markdown_tables
    from vlprompt.files import write_text

    file = results / "results.jsonl" if results.is_dir() else results
    if not file.is_file():
        raise UserError(f"results '{file}' do not exist: give the folder that 'vlprompt bench --out' wrote")
    records = Store(file).read()
    if not records:
        raise UserError(f"results '{file}' hold no finished run: run 'vlprompt bench' again")
    write_bench_report(records, out)
    print(f"report in {out}")
    if tables is not None:
        write_text(tables / "tables.md", markdown_tables(records))
        write_text(tables / "tables.tex", latex_tables(records))
        print(f"tables in {tables}")
