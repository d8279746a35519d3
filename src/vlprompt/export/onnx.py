"""``vlprompt export``: a tuned classifier for other programs, as ONNX or as plain ``transformers``.

Shapes: B images, S image side, K classes, E joint width.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerFast
from tyro.conf import Positional

from vlprompt.data.transforms import image_stats
from vlprompt.errors import UserError
from vlprompt.estimator import artifact
from vlprompt.files import write_text
from vlprompt.methods.base import Method

if TYPE_CHECKING:
    from vlprompt.estimator.classifier import PromptClassifier

IN_ONE_FILE = 1_900_000_000
"""Bytes of weights up to which an ONNX model is one file; its format ends at 2 GiB."""

PAD = "<pad>"
EXAMPLE = """# {title} for {count} classes, as a stock CLIP

```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="this-folder")
classes = list(classify.model.config.id2label.values())
print(classify("photo.jpg", candidate_labels=classes, hypothesis_template="{{}}"))
```

Every class name is one token, and the text branch looks up the class feature that was learned with it:
it reads these names and no other text.
"""


def export(
    classifier: Positional[Path],
    out: Positional[Path],
    *,
    format: Literal["onnx", "transformers"] = "onnx",
    model: str = "",
    device: str = "auto",
) -> None:
    """Write a classifier for other programs.

    Args:
        classifier: folder of a tuned classifier.
        out: file that ends in .onnx, or a folder for transformers.
        format: onnx serves every method; transformers (a stock CLIP) those without visual prompts.
        model: where the backbone is, if not where it was in training.
        device: auto, cpu, cuda, mps.
    """
    from vlprompt.estimator.classifier import PromptClassifier

    tuned = PromptClassifier.load(classifier, model, device)
    if format == "onnx":
        export_onnx(tuned, out)
    else:
        export_transformers(tuned, out)
    print(f"written to {out}")


# ONNX.


def export_onnx(classifier: PromptClassifier, path: str | Path) -> None:
    """Write ``NAME.onnx``, from pixel values (B, 3, S, S) to probabilities (B, K), and ``NAME.json``.

    Class features are constants of the model unless they depend on the image. Class names stand in its
    metadata as ``class_names``, a JSON list; how images become pixel values stands in the JSON file.

    Raises:
        UserError: a package is missing, or the path is no name of an ONNX file.
    """
    check_is_fitted(classifier, "method_")
    path = Path(path)
    _check_onnx(path)
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
    weights = sum(p.numel() * p.itemsize for p in backbone.model.vision_model.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    exported.save(path, external_data=weights > IN_ONE_FILE)
    preparation = _preparation(backbone.processor) | {"class_names": names}
    write_text(path.with_suffix(".json"), json.dumps(preparation, indent=1, ensure_ascii=False) + "\n")


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


# Plain transformers.


def export_transformers(classifier: PromptClassifier, folder: str | Path) -> None:
    """Write a folder that ``transformers`` opens as a stock ``CLIPModel``, with an example in README.md.

    Its zero-shot image classification gives the classifier's probabilities when it is asked for the
    classifier's class names.

    Raises:
        UserError: a stock CLIP cannot compute what the method computes; the folder cannot be written.
    """
    check_is_fitted(classifier, "method_")
    method, names = classifier.method_, classifier.classnames_
    _check_stock(method, names)
    with artifact.folder_beside(Path(folder)) as beside:
        _lookup_clip(method, names).save_pretrained(beside)
        _lookup_tokenizer(names).save_pretrained(beside)
        method.encoder.backbone.processor.save_pretrained(beside)
        (beside / artifact.CARD).write_text(EXAMPLE.format(title=method.title, count=len(names)))


def _check_stock(method: Method, names: tuple[str, ...]) -> None:
    """Raise unless the method is cosines of plain image features with class features, names distinct."""
    kind = type(method)
    remedy = "export it to ONNX"
    if method.vision_prompt() is not None:
        raise UserError(f"method '{method.name}' has visual prompts, a stock CLIP has none: {remedy}")
    for step in ("forward", "predictor", "image_features", "logits"):
        if getattr(kind, step) is not getattr(Method, step):
            raise UserError(
                f"method '{method.name}' has {step} of its own, unlike those of a stock CLIP: {remedy}"
            )
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"class name '{name}' stands for two classes, a stock CLIP needs one: {remedy}")


@torch.no_grad()
def _lookup_clip(method: Method, names: tuple[str, ...]) -> CLIPModel:
    """A stock CLIP whose text branch has no layers and gives class feature k for the one token k.

    What stays of a text branch without layers is embedding, layer norm and projection. A unit vector f
    goes through the norm unharmed as (f, -f): mean 0, variance 1 / E, whatever f is. The projection
    keeps its first half, and the common scale falls away where CLIP normalises.
    """
    backbone = method.encoder.backbone
    features = method.predicting_features()  # (K, E)
    count, width = features.shape
    config = copy.deepcopy(backbone.model.config)
    config.id2label = dict(enumerate(names))
    text = config.text_config
    text.num_hidden_layers, text.num_attention_heads = 0, 1
    text.hidden_size, text.vocab_size, text.max_position_embeddings = 2 * width, count + 1, 1
    text.bos_token_id = text.eos_token_id = text.pad_token_id = count
    model = CLIPModel(config).to(backbone.device, backbone.dtype)
    frozen = ("vision_model.", "visual_projection.", "logit_scale")
    weights = {k: v for k, v in backbone.model.state_dict().items() if k.startswith(frozen)}
    model.load_state_dict(weights, strict=False)
    embeddings = model.text_model.embeddings
    embeddings.position_embedding.weight.zero_()
    embeddings.token_embedding.weight[:count] = torch.cat([features, -features], 1)
    model.text_projection.weight.copy_(torch.eye(width, 2 * width))
    return model


def _lookup_tokenizer(names: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """One token for every class name, and an error for any other text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    vocabulary = {name: index for index, name in enumerate(names)} | {PAD: len(names)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary)), pad_token=PAD)
