"""Pixels as the backbone wants them: plain or augmented, drawn when they are asked for.

Shapes: b images of a batch, s image side.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlprompt.data.images import image_loader
from vlprompt.data.transforms import SCALE, Augmentation, EvalTransform, TrainTransform, image_stats
from vlprompt.dataset import ImageSource
from vlprompt.engine.devices import moved
from vlprompt.engine.encoder import Encoder
from vlprompt.progress import track

Draw = Callable[[Tensor], Tensor]
"""Positions (b,) -> images (b, 3, s, s), token ids (b, T) or features (b, E), on the backbone's device."""
T = TypeVar("T")
ALL = slice(None)

BATCH = 64
KEPT_BYTES = 2 << 30
"""Prepared pixels, and hidden states below the prompts, up to this size stay in memory; more are computed
again for every batch."""


class Augmented(Protocol):
    """Augmented images at positions (b,), or a part of these; drawn anew at every call, or as seeds, one an
    image, decide."""

    def __call__(self, positions: Tensor, seeds: Sequence[int] = ..., part: slice = ...) -> Tensor:
        """(b, 3, s, s), on the backbone's device."""
        ...


def plain_pixels(
    encoder: Encoder, sources: Sequence[ImageSource], keep: bool = False, show: bool = False
) -> Draw:
    """Images as the backbone's processor prepares them; kept in memory on demand where they fit.

    Of a language model: token ids of texts (b, T), -1 behind shorter ones.
    """
    if "vision" not in encoder.backbone.branches:
        return _token_ids(encoder, sources)
    transform = EvalTransform(encoder.backbone.processor)
    device, dtype = encoder.backbone.device, encoder.backbone.dtype

    def draw(positions: Tensor) -> Tensor:
        return moved(transform([sources[i] for i in positions.tolist()]), device, dtype)

    size = 4 * 3 * encoder.backbone.image_size**2 * len(sources)
    if not keep or size > KEPT_BYTES:
        return draw
    batches = in_batches(len(sources))
    kept = [draw(b).cpu() for b in track(batches, "images", len(batches), show)]
    pixels = torch.cat(kept) if kept else torch.empty(0)
    return lambda positions: moved(pixels[positions], device)


def _token_ids(encoder: Encoder, sources: Sequence[ImageSource]) -> Draw:
    rows = [torch.tensor(row) for row in encoder.read_texts([str(text) for text in sources])]

    def draw(positions: Tensor) -> Tensor:
        chosen = [rows[i] for i in positions.tolist()]
        return pad_sequence(chosen, batch_first=True, padding_value=-1).to(encoder.backbone.device)

    return draw


def augmented_pixels(
    encoder: Encoder, sources: Sequence[ImageSource], augment: Augmentation, smallest: float = SCALE[0]
) -> Augmented:
    """Augmented images; decoded when needed, and kept up to ``KEPT_BYTES``.

    Images are reduced only so far that the smallest crop is not enlarged.
    """
    stats = image_stats(encoder.backbone.processor)
    transform = TrainTransform(stats.size, stats.mean, stats.std, augment, smallest)
    device, dtype = encoder.backbone.device, encoder.backbone.dtype
    side = math.ceil(stats.size / math.sqrt(smallest))
    load, kept, room = image_loader(side), dict[int, Tensor](), KEPT_BYTES

    def draw(positions: Tensor, seeds: Sequence[int] = (), part: slice = ALL) -> Tensor:
        nonlocal room
        wanted = positions.tolist()
        missing = [i for i in dict.fromkeys(wanted) if i not in kept]
        loaded = dict(zip(missing, load([sources[i] for i in missing]), strict=True))
        images = [kept[i] if i in kept else loaded[i] for i in wanted]
        pixels = moved(transform(images, seeds, part), device, dtype)
        for i, image in loaded.items():
            if image.nbytes <= room:
                kept[i], room = image, room - image.nbytes
        return pixels

    return draw


def ahead(draw: Callable[[T], Tensor], batches: Sequence[T]) -> Iterator[Tensor]:
    """The images of batches in order, the next one made while the one before is used."""
    with ThreadPoolExecutor(1) as worker:
        coming = deque[Future[Tensor]]()
        for batch in batches:
            coming.append(worker.submit(draw, batch))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def in_batches(count: int, size: int = BATCH) -> Sequence[Tensor]:
    """Positions (b,) of neighbouring images; none where there is no image."""
    return torch.arange(count).split(size) if count else ()
