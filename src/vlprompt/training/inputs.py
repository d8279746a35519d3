"""Images as the training loop and the predictor want them: pixels, or frozen features where that is all.

Shapes: N images of a split, b of a batch, V cached views, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Literal

import torch
from torch import Tensor

from vlprompt.data.transforms import SCALE, Augmentation
from vlprompt.dataset import Item
from vlprompt.engine.devices import moved
from vlprompt.engine.encoder import Encoder
from vlprompt.progress import track
from vlprompt.training.frozen import image_features, view_features
from vlprompt.training.imageset import ImageSet
from vlprompt.training.pixels import ALL, KEPT_BYTES, Draw, augmented_pixels, in_batches, plain_pixels

Augment = Augmentation | Literal["none"]


def make_image_set(
    encoder: Encoder,
    items: Sequence[Item],
    augment: Augment = "none",
    views: int = 0,
    frozen: bool = False,
    show: bool = False,
    smallest: float = SCALE[0],
) -> ImageSet:
    """Images for the training loop.

    Args:
        augment: see :class:`vlprompt.data.transforms.TrainTransform`; ``none`` is the plain image.
        views: number of fixed augmented views whose features are computed once, where ``frozen``;
            0 draws fresh ones at every step, as published.
        frozen: no visual prompt is learned, so the features of fixed pixels are constants.
        smallest: share of the area of the smallest crop.
    """
    labels = torch.tensor([item.label for item in items], dtype=torch.long)
    sources = [item.image for item in items]
    if augment == "none":
        if frozen:
            return ImageSet(_lookup(image_features(encoder, sources, show)[None]), labels, random=True)
        draw = plain_pixels(encoder, sources, keep=True, show=show)
        if "vision" not in encoder.backbone.branches:
            return ImageSet(draw, labels)
        features = cache(lambda: image_features(encoder, sources, show, draw))
        device = encoder.backbone.device
        below = hidden_states(encoder, draw, len(items), show)
        return ImageSet(draw, labels, lambda positions: features()[moved(positions, device)], below)
    if frozen and views:
        kept = view_features(encoder, sources, augment, views, show, smallest)
        return ImageSet(_lookup(kept), labels, random=True)
    return ImageSet(augmented_pixels(encoder, sources, augment, smallest), labels, random=True)


def hidden_states(
    encoder: Encoder, draw: Draw, count: int, show: bool = False
) -> Callable[[Tensor, int], Tensor]:
    """Positions (b,) and a vision layer -> what enters it without prompts (b, T, D); kept for one layer."""
    device = encoder.backbone.device

    @torch.no_grad()
    def enter(positions: Tensor, layer: int) -> Tensor:
        return encoder.enter_layer(draw(positions), layer)

    @lru_cache(maxsize=1)
    def kept(layer: int) -> Tensor | None:
        batches = in_batches(count)
        one = enter(torch.arange(1), layer)  # (1, T, D)
        if one.nbytes * count > KEPT_BYTES:
            return None
        return torch.cat(
            [enter(b, layer).cpu() for b in track(batches, f"layer {layer}", len(batches), show)]
        )

    def below(positions: Tensor, layer: int) -> Tensor:
        states = kept(layer)
        return enter(positions, layer) if states is None else moved(states[positions], device)

    return below


def _lookup(kept: Tensor) -> Draw:
    """Features (V, N, E) -> for positions (b,) those of one view drawn at random each, (b, E)."""

    def draw(positions: Tensor, part: slice = ALL) -> Tensor:
        view = torch.randint(len(kept), positions.shape)[part]
        return kept[moved(view, kept.device), moved(positions[part], kept.device)]

    return draw
