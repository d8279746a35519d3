"""Hand-crafted prompts of the field, and class features made of them (facts of CLIP's release)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.engine.encoder import Encoder

DEFAULT_TEMPLATE = "a photo of a {}."
IMAGENET_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that CLIP's authors chose for ImageNet."""


def fill(template: str, name: str, underscores: bool = False) -> str:
    """A template with the class name in it; underscores become spaces unless kept, braces in names stay."""
    return template.replace("{}", name if underscores else name.replace("_", " "), 1)


def template_features(
    encoder: Encoder, classnames: Sequence[str], templates: Sequence[str], normalize_each: bool = True
) -> Tensor:
    """Class features of frozen CLIP (K, E): the mean over templates, normalised.

    Args:
        normalize_each: normalise each template's features before the mean, as CLIP's authors do.
    """
    texts = [[fill(template, name) for name in classnames] for template in templates]
    with torch.no_grad():
        each = [encoder.encode_text(encoder.tokenize(t), normalize=normalize_each) for t in texts]
        return F.normalize(torch.stack(each).mean(0), dim=-1)
