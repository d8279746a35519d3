"""What a trained method says of images, wherever these come from: logits in double precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vlprompt.dataset import ImageSource
from vlprompt.methods.base import Method
from vlprompt.progress import track
from vlprompt.training.frozen import image_features
from vlprompt.training.pixels import BATCH, ahead, in_batches, plain_pixels


@torch.no_grad()
def predict_logits(method: Method, images: Sequence[ImageSource], show: bool = False) -> Tensor:
    """Logits (N, K) of images, on the CPU; their softmax are the probabilities."""
    if not images:
        return torch.empty(0, len(method.classnames), dtype=torch.double)
    predictor = method.predictor()
    if method.has_visual_prompts:
        batches = in_batches(len(images))
        drawn = ahead(plain_pixels(method.encoder, images), batches)
        inputs: Iterable[Tensor] = track(drawn, "predict", len(batches), show)
    else:
        inputs = image_features(method.encoder, images, show).split(BATCH)
    return torch.cat([predictor(some).cpu() for some in inputs]).double()
