"""Image features that no training changes: from the store where they are there, otherwise computed and kept.

Shapes: N images, V views of each, b images of a batch, E joint width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vlprompt.data.identity import image_digest
from vlprompt.data.images import in_parallel
from vlprompt.data.transforms import SCALE, Augmentation
from vlprompt.dataset import ImageSource
from vlprompt.engine.encoder import Encoder
from vlprompt.progress import track
from vlprompt.training.pixels import BATCH, Augmented, Draw, ahead, augmented_pixels, in_batches, plain_pixels

STORED_BATCH = 32
"""Images that are computed together where features are kept. The last bits depend on how many they are, so
a batch with fewer is filled up, unless these are all."""


def image_features(
    encoder: Encoder, sources: Sequence[ImageSource], show: bool = False, draw: Draw | None = None
) -> Tensor:
    """Features (N, E) of images as they are.

    Args:
        draw: what prepares them, where there is such a thing already.
    """
    return _Frozen(encoder, sources, draw or plain_pixels(encoder, sources)).features("images", show)[0]


def view_features(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    augment: Augmentation,
    views: int,
    show: bool = False,
    smallest: float = SCALE[0],
) -> Tensor:
    """Features (V, N, E) of images in augmented views.

    A view of an image depends on the image and the view's number alone, so that it is the same for every
    method and every seed.
    """
    draw = augmented_pixels(encoder, sources, augment, smallest)
    return _Views(encoder, sources, draw, f"{augment} {smallest}", views).features("views", show)


class _Frozen:
    """Features of images, each in one view.

    Args:
        draw: positions (b,) -> pixels (b, 3, s, s).
    """

    views = 1
    made = "plain"

    def __init__(self, encoder: Encoder, sources: Sequence[ImageSource], draw: Any):
        self.encoder, self.sources, self.draw = encoder, sources, draw
        # Texts are packed, so the last bits of one depend on the others: the encoder keeps packs.
        self.store = encoder.store if "vision" in encoder.backbone.branches else None
        self.size = BATCH if self.store is None else min(STORED_BATCH, len(sources))

    @cached_property
    def digests(self) -> list[str]:
        """What each image is."""
        return in_parallel(image_digest, self.sources)

    @torch.no_grad()
    def features(self, what: str, show: bool) -> Tensor:
        """(V, N, E)."""
        backbone, count = self.encoder.backbone, len(self.sources)
        if not count:
            return torch.empty(self.views, 0, backbone.joint_width, device=backbone.device)
        if self.store is None:
            computed = self._computed(in_batches(count, self.size), what, show)
            return torch.cat([*computed], 1)
        found = in_parallel(self._stored, self.digests)
        missing = torch.tensor([i for i, one in enumerate(found) if one is None], dtype=torch.long)
        batches = missing.split(self.size) if len(missing) else ()
        for batch, made in zip(batches, self._computed(batches, what, show), strict=True):
            for i, one in zip(batch.tolist(), made.unbind(1), strict=True):
                found[i] = one
            in_parallel(lambda i: self._keep(i, found[i]), batch.tolist())
        return torch.stack([one for one in found if one is not None], 1)

    def _computed(self, batches: Sequence[Tensor], what: str, show: bool) -> Iterator[Tensor]:
        """Features (V, b, E) of batches of positions, one after the other."""
        jobs = [(batch, view) for batch in batches for view in range(self.views)]
        images = track(ahead(self._pixels, jobs), what, len(jobs), show)
        for batch in batches:
            with torch.autocast(self.encoder.backbone.device.type, enabled=False):
                each = [self.encoder.encode_input(next(images)) for _ in range(self.views)]
            yield torch.stack(each)[:, : len(batch)]

    def _pixels(self, job: tuple[Tensor, int]) -> Tensor:
        """Pixels of a batch in one view; filled up with its first image where it is short."""
        batch, view = job
        short = 0 if self.store is None else self.size - len(batch)
        return self._drawn(torch.cat([batch, batch[:1].expand(short)]), view)

    def _drawn(self, positions: Tensor, view: int) -> Tensor:
        return self.draw(positions)

    def _key(self, digest: str) -> str:
        assert self.store is not None
        how = f"{self.store.processor}|{self.encoder.frozen_dtype}|{self.made}|{self.views}|{self.size}"
        return f"image|{how}|{digest}"

    def _stored(self, digest: str) -> Tensor | None:
        """Features (V, E) of an image, where they are there."""
        return self.store.get(self._key(digest)) if self.store and digest else None

    def _keep(self, position: int, features: Tensor | None) -> None:
        """Keep what was computed of an image, unless its file has become another meanwhile."""
        digest = self.digests[position]
        if self.store and features is not None and digest and image_digest(self.sources[position]) == digest:
            self.store.put(self._key(digest), features)


class _Views(_Frozen):
    """Features of images, each in several augmented views."""

    def __init__(
        self, encoder: Encoder, sources: Sequence[ImageSource], draw: Augmented, made: str, views: int
    ):
        super().__init__(encoder, sources, draw)
        self.made, self.views = made, views

    def _drawn(self, positions: Tensor, view: int) -> Tensor:
        each = [f"{view}|{self.digests[i]}" for i in positions.tolist()]
        return self.draw(positions, [_number(text) for text in each])


def _number(text: str) -> int:
    """A seed."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
