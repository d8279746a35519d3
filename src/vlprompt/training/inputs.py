"""Images as the training loop and the predictor want them: pixels, or frozen features where that is all.

Shapes: N images of a split, b of a batch, V cached views, s image side, E joint width.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vlprompt.data.images import image_loader
from vlprompt.data.transforms import SCALE, Augmentation, EvalTransform, TrainTransform, image_stats
from vlprompt.dataset import Encoded, ImageSource, Item
from vlprompt.engine.encoder import Encoder
from vlprompt.progress import track
from vlprompt.training.imageset import ImageSet

Augment = Augmentation | Literal["none"]
Draw = Callable[[Tensor], Tensor]
"""Positions (b,) -> images (b, 3, s, s) or features (b, E), on the backbone's device."""

BATCH = 64
KEPT_BYTES = 2 << 30
"""Prepared pixels, and hidden states below the prompts, up to this size stay in memory; more are computed
again for every batch."""


def make_image_set(
    encoder: Encoder,
    items: Sequence[Item],
    augment: Augment = "none",
    views: int = 0,
    frozen: bool = False,
    show: bool = False,
) -> ImageSet:
    """Images for the training loop.

    Args:
        augment: see :class:`vlprompt.data.transforms.TrainTransform`; ``none`` is the plain image.
        views: number of fixed augmented views whose features are computed once, where ``frozen``;
            0 draws fresh ones at every step, as published.
        frozen: no visual prompt is learned, so the features of fixed pixels are constants.
    """
    labels = torch.tensor([item.label for item in items], dtype=torch.long)
    sources = [item.image for item in items]
    if augment == "none":
        draw = plain_pixels(encoder, sources, keep=not frozen, show=show)
        features = cache(lambda: _plain_features(encoder, sources, draw, show))
        if frozen:
            return ImageSet(_lookup(features()[None]), labels)
        device = encoder.backbone.device
        below = hidden_states(encoder, draw, len(items), show)
        return ImageSet(draw, labels, lambda positions: features()[positions.to(device)], below)
    if frozen and views:
        return ImageSet(_lookup(view_features(encoder, sources, augment, views, show)), labels)
    return ImageSet(augmented_pixels(encoder, sources, augment), labels)


def plain_pixels(
    encoder: Encoder, sources: Sequence[ImageSource], keep: bool = False, show: bool = False
) -> Draw:
    """Images as the backbone's processor prepares them; kept in memory on demand where they fit."""
    transform = EvalTransform(encoder.backbone.processor)
    device, dtype = encoder.backbone.device, encoder.backbone.dtype

    def draw(positions: Tensor) -> Tensor:
        return transform([sources[i] for i in positions.tolist()]).to(device, dtype)

    size = 4 * 3 * encoder.backbone.image_size**2 * len(sources)
    if not keep or size > KEPT_BYTES:
        return draw
    batches = _batches(len(sources))
    kept = [draw(b).cpu() for b in track(batches, "images", len(batches), show)]
    pixels = torch.cat(kept) if kept else torch.empty(0)
    return lambda positions: pixels[positions].to(device)


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
        batches = _batches(count)
        one = enter(torch.arange(1), layer)  # (1, T, D)
        if one.nbytes * count > KEPT_BYTES:
            return None
        return torch.cat(
            [enter(b, layer).cpu() for b in track(batches, f"layer {layer}", len(batches), show)]
        )

    def below(positions: Tensor, layer: int) -> Tensor:
        states = kept(layer)
        return enter(positions, layer) if states is None else states[positions].to(device)

    return below


def augmented_pixels(encoder: Encoder, sources: Sequence[ImageSource], augment: Augmentation) -> Draw:
    """Augmented images, drawn at every call; decoded when needed, and kept up to ``KEPT_BYTES``.

    Images are reduced only so far that the smallest crop is not enlarged.
    """
    stats = image_stats(encoder.backbone.processor)
    transform = TrainTransform(stats.size, stats.mean, stats.std, augment)
    device, dtype = encoder.backbone.device, encoder.backbone.dtype
    side = math.ceil(stats.size / math.sqrt(SCALE[0]))
    load, kept, room = image_loader(side), dict[int, Tensor](), KEPT_BYTES

    def draw(positions: Tensor) -> Tensor:
        nonlocal room
        wanted = positions.tolist()
        missing = [i for i in dict.fromkeys(wanted) if i not in kept]
        loaded = dict(zip(missing, load([sources[i] for i in missing]), strict=True))
        pixels = transform([kept[i] if i in kept else loaded[i] for i in wanted]).to(device, dtype)
        for i, image in loaded.items():
            if image.nbytes <= room:
                kept[i], room = image, room - image.nbytes
        return pixels

    return draw


def ahead(draw: Draw, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """The images of batches in order, the next one made while the one before is used."""
    with ThreadPoolExecutor(1) as worker:
        coming = deque[Future[Tensor]]()
        for batch in batches:
            coming.append(worker.submit(draw, batch))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def image_features(encoder: Encoder, sources: Sequence[ImageSource], show: bool = False) -> Tensor:
    """Frozen features (N, E) of images without augmentation."""
    return _plain_features(encoder, sources, plain_pixels(encoder, sources), show)


def view_features(
    encoder: Encoder, sources: Sequence[ImageSource], augment: Augmentation, views: int, show: bool = False
) -> Tensor:
    """Frozen features (V, N, E) of augmented views of images."""
    known = [s.views for s in sources if isinstance(s, Encoded) and s.views is not None]
    if len(known) == len(sources) and all(len(rows) == views for rows in known):
        return _known(encoder, known).transpose(0, 1)
    draw = augmented_pixels(encoder, sources, augment)
    return _features(encoder, draw, len(sources), "views", show, views).unflatten(0, (views, -1))


def known_features(encoder: Encoder, sources: Sequence[ImageSource]) -> Tensor | None:
    """Frozen features (N, E) that were computed before; None unless all are known."""
    known = [source.features for source in sources if isinstance(source, Encoded)]
    return _known(encoder, known) if known and len(known) == len(sources) else None


def _known(encoder: Encoder, rows: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(rows)).to(encoder.backbone.device, encoder.backbone.dtype)


def _plain_features(encoder: Encoder, sources: Sequence[ImageSource], draw: Draw, show: bool) -> Tensor:
    known = known_features(encoder, sources)
    return _features(encoder, draw, len(sources), "images", show) if known is None else known


@torch.no_grad()
def _features(encoder: Encoder, draw: Draw, count: int, what: str, show: bool, views: int = 1) -> Tensor:
    """Features (views * N, E) of images that are drawn ``views`` times."""
    batches = [*_batches(count)] * views
    images = track(ahead(draw, batches), what, len(batches), show)
    done = [encoder.encode_image(pixels) for pixels in images]
    return torch.cat(done) if done else torch.empty(0, encoder.backbone.joint_width)


def _batches(count: int) -> Sequence[Tensor]:
    """Positions (b,) of neighbouring images; none where there is no image."""
    return torch.arange(count).split(BATCH) if count else ()


def _lookup(kept: Tensor) -> Draw:
    """Features (V, N, E) -> for positions (b,) those of one view drawn at random each, (b, E)."""

    def draw(positions: Tensor) -> Tensor:
        view = torch.randint(len(kept), positions.shape)
        return kept[view.to(kept.device), positions.to(kept.device)]

    return draw
