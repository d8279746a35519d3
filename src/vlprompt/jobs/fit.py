"""From labelled images to a finished folder: a classifier trained, measured and written, with its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlprompt.dataset import Dataset
from vlprompt.errors import UserError
from vlprompt.estimator import artifact
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import write_text
from vlprompt.methods.lengths import Lengths
from vlprompt.reports.training import Run
from vlprompt.training.tracking import tracked


def fit(
    classifier: PromptClassifier,
    dataset: Dataset,
    out: Path,
    *,
    command: str,
    track: str = "",
    files: Mapping[str, str] | None = None,
    force: bool = False,
) -> Run:
    """Train on a data set, measure on its test images where it has some, write the folder ``out``.

    The folder appears whole or not at all; what a cut-off call trained lies beside it, and the same call
    goes on from there.

    Args:
        command: what made this, for the report.
        track: a tracker of accelerate that logs every epoch: tensorboard, wandb, mlflow.
        files: more files of the folder, their text by name.
        force: replace ``out`` whoever made it.

    Raises:
        UserError: see the message.
    """
    with artifact.folder_beside(out, force=force) as beside:
        start = time.perf_counter()
        settings = classifier.get_params() | {"data": dataset.name} | (classifier.settings or {})
        with tracked(track, beside / "logs", settings) as on_epoch:
            classifier.fit_dataset(dataset, beside / artifact.CHECKPOINTS, on_epoch, validate=True)
        seconds = time.perf_counter() - start
        report = classifier.report_on(dataset.test, seconds)
        classifier.save_into(beside, report.run.measured)
        report.save(beside / "report.html", dataset=dataset.name, command=command)
        for name, text in (files or {}).items():
            write_text(beside / name, text)
        artifact.drop_checkpoints(beside)
    return report.run


def finished(out: Path) -> str:
    """What a folder holds that an earlier call finished, in words; empty where it holds none such."""
    try:
        _, config, _ = artifact.read(out)
    except UserError:
        return ""
    accuracy = [f"{m['accuracy']:.1f} % right on {split}" for split, m in config["measured"].items()]
    return ", ".join([f"a finished classifier ({config['method']})", *accuracy])


def with_lengths(method: str, settings: Mapping[str, Any], lengths: Lengths) -> dict[str, Any]:
    """All of a method's settings, with these lengths for the branches that it prompts in every layer.

    Raises:
        UserError: it prompts none so.
    """
    both = {"text_lengths": lengths.text, "vision_lengths": lengths.vision}
    known = {name: given for name, given in both.items() if name in settings}
    if not known:
        raise UserError(f"method '{method}' takes no lengths: use a method with prompts in every layer")
    return {**settings, **known}
