"""The command ``vlprompt export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from vlprompt.cli.loading import AS_TRAINED, Loading


def export(
    classifier: Positional[Path],
    out: Positional[Path],
    *,
    format: Literal["onnx", "transformers"] = "onnx",
    force: bool = False,
    loading: OmitArgPrefixes[Loading] = AS_TRAINED,
) -> None:
    """Write a classifier for other programs.

    Args:
        classifier: folder of a tuned classifier.
        out: file that ends in .onnx, or a folder for transformers.
        format: onnx serves every method; transformers (a stock CLIP) those without visual prompts.
        force: replace the output whoever made it.
    """
    tuned = loading.load(classifier)
    if format == "onnx":
        from vlprompt.export.onnx import export_onnx

        export_onnx(tuned, out, force)
    else:
        from vlprompt.export.stock_clip import export_transformers

        export_transformers(tuned, out, force)
    print(f"written to {out}")
