"""The command ``vlprompt evaluate``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from vlprompt.cli.console import show
from vlprompt.cli.loading import AS_TRAINED, Loading


def evaluate(
    classifier: Positional[Path],
    data: Positional[str],
    *,
    root: Path | None = None,
    report: Path | None = None,
    predictions: Path | None = None,
    force: bool = False,
    text_column: str = "text",
    label_column: str = "label",
    json: bool = False,
    loading: OmitArgPrefixes[Loading] = AS_TRAINED,
) -> None:
    """Measure a classifier on labelled images.

    Args:
        classifier: folder of a tuned classifier.
        data: a folder of class folders, or anything that 'vlprompt fit' takes; its test images where
            it has them, otherwise all.
        root: folder of the benchmark's data sets.
        report: page to write: classes, mistakes, calibration.
        predictions: CSV file to write: image, truth, prediction, probability.
        force: write over these files whoever made them.
        text_column: column of the texts, where the data holds texts.
        label_column: column of their labels.
        json: print one JSON object.
    """
    from vlprompt.data import Columns, load
    from vlprompt.jobs import evaluate as job

    dataset = load(data, root, Columns(text_column, label_column))
    tuned = loading.load(classifier, texts=dataset.texts)
    tuned.verbose = True
    command = shlex.join(["vlprompt", "evaluate", str(classifier), data])
    files: dict[str, Any] = {"report": report, "predictions": predictions}
    measured = job.evaluate(tuned, dataset, **files, command=command, force=force)
    written = {name: str(path) for name, path in files.items() if path}
    show({"test": measured} | written, json)
    if dataset.skipped:
        raise SystemExit(1)
