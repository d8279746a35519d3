"""A tuned classifier as a stock CLIP that plain ``transformers`` opens.

Shapes: K classes, E joint width.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from sklearn.utils.validation import check_is_fitted
from transformers import CLIPModel, PreTrainedTokenizerFast

from vlprompt.errors import UserError
from vlprompt.estimator import artifact
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import whole_folder
from vlprompt.methods.base import Method

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


def export_transformers(classifier: PromptClassifier, folder: str | Path, force: bool = False) -> None:
    """Write a folder that ``transformers`` opens as a stock ``CLIPModel``, with an example in README.md.

    Its zero-shot image classification gives the classifier's probabilities when it is asked for the
    classifier's class names.

    Args:
        force: replace the folder whoever made it.

    Raises:
        UserError: a stock CLIP cannot compute what the method computes; the folder cannot be written.
    """
    check_is_fitted(classifier, "method_")
    method, names = classifier.method_, classifier.classnames_
    _check_stock(method, names)
    with whole_folder(Path(folder), "export", force=force) as beside:
        _lookup_clip(method, names).save_pretrained(beside)
        _lookup_tokenizer(names).save_pretrained(beside)
        method.encoder.backbone.processor.save_pretrained(beside)
        (beside / artifact.CARD).write_text(EXAMPLE.format(title=method.title, count=len(names)))


def _check_stock(method: Method, names: tuple[str, ...]) -> None:
    """Raise unless the method is cosines of plain image features with class features, names distinct."""
    kind, backbone = type(method), method.encoder.backbone
    remedy = "export it to ONNX"
    if not isinstance(backbone.model, CLIPModel):
        raise UserError(f"backbone '{backbone.name}' is no CLIP of the stock type: {remedy}")
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
