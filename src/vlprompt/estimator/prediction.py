"""What a trained method says of images, wherever these come from: logits in double precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlprompt.dataset import ImageSource
from vlprompt.errors import UserError
from vlprompt.methods.base import Method
from vlprompt.progress import track
from vlprompt.training.frozen import image_features
from vlprompt.training.pixels import BATCH, ahead, in_batches, plain_pixels


@torch.no_grad()
def predict_logits(method: Method, images: Sequence[ImageSource], show: bool = False) -> Tensor:
    """Logits (N, K) of images, on the CPU; their softmax are the probabilities.

    Raises:
        UserError: they are no numbers: finite prompts, too, can be damaged so that products overflow.
    """
    if not images:
        return torch.empty(0, len(method.classnames), dtype=torch.double)
    predictor = method.predictor()
    if method.has_visual_prompts:
        logits = _batched(method, predictor, images, show)
    else:
        features = image_features(method.encoder, images, show)
        logits = torch.cat([predictor(some).cpu() for some in features.split(BATCH)])
    if logits.softmax(-1).isnan().any():
        raise UserError(f"what method '{method.name}' learned gives no numbers: it was damaged, fit it again")
    return logits.double()


@torch.no_grad()
def predict_features(method: Method, images: Sequence[ImageSource], show: bool = False) -> Tensor:
    """Features (N, E) of images, with what the method learned, on the CPU."""
    return _batched(method, method.image_features, images, show)


def _batched(
    method: Method, step: Callable[[Tensor], Tensor], images: Sequence[ImageSource], show: bool
) -> Tensor:
    batches = in_batches(len(images))
    drawn = track(ahead(plain_pixels(method.encoder, images), batches), "predict", len(batches), show)
    return torch.cat([step(pixels).cpu() for pixels in drawn])
