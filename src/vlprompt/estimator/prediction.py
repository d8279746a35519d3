"""What a trained method says of images, wherever these come from: logits in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlprompt.dataset import ImageSource
from vlprompt.methods.base import Method
from vlprompt.progress import track
from vlprompt.training.inputs import BATCH, ahead, known_features, plain_pixels


@torch.no_grad()
def predict_logits(method: Method, images: Sequence[ImageSource], show: bool = False) -> Tensor:
    """Logits (N, K) of images, on the CPU; their softmax are the probabilities."""
    if not images:
        return torch.empty(0, len(method.classnames), dtype=torch.double)
    predictor, draw = method.predictor(), plain_pixels(method.encoder, images)
    known = None if method.has_visual_prompts else known_features(method.encoder, images)
    if known is not None:
        return torch.cat([predictor(rows).cpu() for rows in known.split(BATCH)]).double()
    batches = torch.arange(len(images)).split(BATCH)
    drawn = track(ahead(draw, batches), "predict", len(batches), show)
    done = [predictor(pixels).cpu() for pixels in drawn]
    return torch.cat(done).double()
