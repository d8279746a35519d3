"""The command ``vlprompt evaluate``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from vlprompt.cli.console import show
from vlprompt.cli.loading import AS_TRAINED, Loading


def evaluate(
    classifier: Positional[Path],
    data: Positional[str],
    *,
    root: Path | None = None,
    json: bool = False,
    loading: OmitArgPrefixes[Loading] = AS_TRAINED,
) -> None:
    """Measure a classifier on labelled images.

    Args:
        classifier: folder of a tuned classifier.
        data: a folder of class folders, or anything that 'vlprompt fit' takes; its test images where
            it has them, otherwise all.
        root: folder of the benchmark's data sets.
        json: print one JSON object.
    """
    from vlprompt.data import load
    from vlprompt.jobs import evaluate as job

    dataset = load(data, root)
    tuned = loading.load(classifier)
    tuned.verbose = True
    show({"test": job.evaluate(tuned, dataset)}, json)
    if dataset.skipped:
        raise SystemExit(1)
