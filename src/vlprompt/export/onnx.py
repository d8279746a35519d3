"""A tuned classifier as an ONNX model, from pixel values to probabilities.

Shapes: B images, S image side, K classes.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from vlprompt.data.transforms import image_stats
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import MARK, check_targets, whole_files, write_text
from vlprompt.methods.base import Method

IN_ONE_FILE = 1_900_000_000
"""Bytes of weights up to which an ONNX model is one file; its format ends at 2 GiB."""


def export_onnx(classifier: PromptClassifier, path: str | Path, force: bool = False) -> None:
    """Write ``NAME.onnx``, from pixel values (B, 3, S, S) to probabilities (B, K), and ``NAME.json``.

    Class features are constants of the model unless they depend on the image. Class names stand in its
    metadata as ``class_names``, a JSON list; how images become pixel values stands in the JSON file.

    Args:
        force: write over these files whoever made them.

    Raises:
        UserError: a package is missing, the files cannot be written, or the path is no name of an ONNX file.
    """
    check_is_fitted(classifier, "method_")
    path = Path(path)
    _check_onnx(path)
    description, weights = path.with_suffix(".json"), path.with_name(path.name + ".data")
    check_targets(path, description, force=force)
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    backbone = classifier.method_.encoder.backbone
    exported = torch.onnx.export(
        _trace(classifier.method_),
        input_names=["pixel_values"],
        output_names=["probabilities"],
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    ClearMetadataAndDocStringPass()(exported.model)  # stack traces, with the folders of this machine
    names = list(classifier.classnames_)
    exported.model.metadata_props["class_names"] = json.dumps(names)
    exported.model.producer_name = MARK
    preparation = {"made_by": MARK} | _preparation(backbone.processor) | {"class_names": names}
    size = sum(p.numel() * p.itemsize for p in backbone.model.parameters())
    with whole_files(path, description, weights) as room:
        exported.save(room / path.name, external_data=size > IN_ONE_FILE)
        write_text(room / description.name, json.dumps(preparation, indent=1, ensure_ascii=False) + "\n")


def _check_onnx(path: Path) -> None:
    """Raise unless ONNX can be written, and written there."""
    if path.suffix != ".onnx" or path.is_dir():
        raise UserError(f"output '{path}' is no name of an ONNX file: give one that ends in .onnx")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"export to ONNX needs the package '{error.name}': pip install 'vlprompt[onnx]'"
        ) from error
    # It warns of the operators of packages that are not there and play no part.
    logging.getLogger("torch.onnx._internal.exporter").setLevel(logging.ERROR)


@torch.no_grad()
def _trace(method: Method) -> torch.export.ExportedProgram:
    """The way from pixels (B, 3, S, S) to probabilities (B, K), for any B."""
    backbone = method.encoder.backbone
    side = backbone.image_size
    # Two images, because sizes 0 and 1 are taken for constants.
    pixels = torch.zeros(2, 3, side, side, device=backbone.device, dtype=backbone.dtype)
    batch = {0: torch.export.Dim("batch")}
    model = _Probabilities(method).eval()
    with warnings.catch_warnings():
        # Plans are cached by what alone they depend on.
        warnings.filterwarnings("ignore", message=".*lru_cache")
        # Strict, because otherwise len() of a batch is taken for a constant.
        return torch.export.export(model, (pixels,), dynamic_shapes=(batch,), strict=True)


class _Probabilities(nn.Module):
    """Pixels to probabilities."""

    def __init__(self, method: Method):
        super().__init__()
        self.backbone, self.method = method.encoder.backbone.model, method
        self.predictor = method.predictor()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, K)."""
        return self.predictor(pixels).softmax(-1)


def _preparation(processor: Any) -> dict[str, Any]:
    """How an image becomes pixel values: resize, cut out the centre, scale, normalise."""
    stats = image_stats(processor)
    return {
        "resize": dict(processor.size),
        "resample": Image.Resampling(processor.resample).name.lower(),
        "center_crop": bool(getattr(processor, "do_center_crop", False)),
        "size": stats.size,
        "rescale_factor": processor.rescale_factor,
        "mean": stats.mean,
        "std": stats.std,
    }
