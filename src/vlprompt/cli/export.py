"""The command ``vlprompt export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def export(
    classifier: Positional[Path],
    out: Positional[Path],
    *,
    format: Literal["onnx", "transformers"] = "onnx",
    model: str = "",
    device: str = "auto",
    method: str = "",
    force: bool = False,
) -> None:
    """Write a classifier for other programs.

    Args:
        classifier: folder of a tuned classifier.
        out: file that ends in .onnx, or a folder for transformers.
        format: onnx serves every method; transformers (a stock CLIP) those without visual prompts.
        model: where the backbone is, if not where it was in training.
        device: auto, cpu, cuda, mps.
        method: file of the method, where it was one of your own.
        force: replace the output whoever made it.
    """
    from vlprompt.estimator.classifier import PromptClassifier

    tuned = PromptClassifier.load(classifier, model, device, method)
    if format == "onnx":
        from vlprompt.export.onnx import export_onnx

        export_onnx(tuned, out, force)
    else:
        from vlprompt.export.stock_clip import export_transformers

        export_transformers(tuned, out, force)
    print(f"written to {out}")
