"""The command ``vlprompt evaluate``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from vlprompt.cli.console import show


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
    from vlprompt.jobs import evaluate as job

    dataset = load(data, root)
    tuned = PromptClassifier.load(classifier, model, device, method)
    tuned.verbose = True
    show({"test": job.evaluate(tuned, dataset)}, json)
    if dataset.skipped:
        raise SystemExit(1)
