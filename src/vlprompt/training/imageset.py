"""The images of one split, as the loop takes them: a batch at any positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vlprompt.engine.devices import moved
from vlprompt.methods.base import Batch


@dataclass(frozen=True)
class ImageSet:
    """Training or validation images, as the loop takes them.

    Args:
        images: positions (b,) -> pixels (b, 3, H, W) or frozen image features (b, E), on the device.
        labels: (N,).
        frozen: positions (b,) -> image features (b, E) without prompts, where the pixels do not change.
        below: positions (b,) and a vision layer -> the hidden states (b, T, D) that enter it without
            prompts, where the pixels do not change.
        taught: positions (b,) and their images -> a teacher's logits (b, K).
        random: whether ``images`` are drawn anew at each call. It is then given the positions of the whole
            batch and the part of it that is wanted, so that a part is drawn as the whole would be.
        faster: what would make training on them faster, in words; empty where nothing would.
        made: where they come from and how they are prepared; a checkpoint must agree on it.
    """

    images: Callable[..., Tensor]
    labels: Tensor
    frozen: Callable[[Tensor], Tensor] | None = None
    below: Callable[[Tensor, int], Tensor] | None = None
    taught: Callable[[Tensor, Tensor], Tensor] | None = None
    random: bool = False
    made: str = ""
    faster: str = ""

    def batch(self, positions: Tensor, device: torch.device, part: slice = slice(None)) -> Batch:
        """The images and labels of a part of a batch, which is at these positions."""
        mine = positions[part]
        frozen = None if self.frozen is None else partial(self.frozen, mine)
        below = None if self.below is None else partial(self.below, mine)
        draw = partial(self.images, positions, part=part) if self.random else partial(self.images, mine)
        images, labels = draw(), moved(self.labels[mine], device)
        taught = None if self.taught is None else partial(self.taught, mine, images)
        return Batch(images, labels, frozen, below, draw, taught)


def shuffled_batches(count: int, size: int, order: torch.Generator, endless: bool) -> Iterator[Tensor]:
    """Shuffled batches of positions; a last short one is left out unless it is the only one."""
    while True:
        batches: Sequence[Tensor] = torch.randperm(count, generator=order).split(size)
        yield from (b for b in batches if len(b) == min(size, count))
        if not endless:
            return


def steps_in_epoch(count: int, size: int) -> int:
    """How many batches of ``shuffled_batches`` one pass over ``count`` images is."""
    return max(count // size, 1)
