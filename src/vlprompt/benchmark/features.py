"""Frozen features of the user's own images: computed once, by all processes together, for all runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlprompt.data.transforms import Augmentation
from vlprompt.dataset import Dataset, Encoded, ImageSource, Item
from vlprompt.engine.backbones.load import shared_backbone
from vlprompt.engine.devices import pick_device
from vlprompt.engine.encoder import Encoder
from vlprompt.files import whole_file
from vlprompt.training.frozen import image_features, view_features

SHARE = 256
"""Images that one process encodes before it looks for others."""


def images_digest(dataset: Dataset) -> str:
    """16 hexadecimal digits of a data set's images (of files: place, size, time), classes and splits."""
    digest = hashlib.sha256(repr((dataset.classnames, dataset.templates)).encode())
    for split in (dataset.train, dataset.val, dataset.test):
        digest.update(f"|{len(split)}".encode())
        for item in split:
            digest.update(f"|{item.label}|".encode())
            digest.update(_identity(item.image))
    return digest.hexdigest()[:16]


def _identity(image: ImageSource) -> bytes:
    if isinstance(image, str | Path):
        stat = Path(image).stat()
        return f"{Path(image).absolute()}|{stat.st_size}|{stat.st_mtime_ns}".encode(errors="surrogateescape")
    if isinstance(image, np.ndarray):
        return image.tobytes()
    return image.tobytes() if isinstance(image, Image.Image) else repr(image).encode()


@dataclass(frozen=True)
class Kept:
    """Features of a backbone, in a folder.

    Args:
        model: the backbone.
        revision: digest of its weights.
    """

    folder: Path
    model: str
    revision: str

    def encode(self, dataset: Dataset, images: str) -> Dataset:
        """The data set, its images with their features.

        Args:
            images: digest of them.
        """
        items = [*dataset.train, *dataset.val, *dataset.test]
        sources = [item.image for item in items]

        def make(share: range) -> Tensor:
            return image_features(_encoder(self.model), [sources[i] for i in share])

        rows = shared_rows(self.folder, f"{self.revision}-{images}", len(items), make).numpy()  # (N, E)
        encoded = iter([Item(Encoded(i.image, row), i.label) for i, row in zip(items, rows, strict=True)])
        train, val, test = ([*_taken(encoded, len(s))] for s in (dataset.train, dataset.val, dataset.test))
        return replace(dataset, train=train, val=val, test=test)

    def encode_views(
        self, train: Sequence[Item], images: str, augment: Augmentation, views: int
    ) -> list[Item]:
        """Training images with the features of augmented views of each, the same for all runs.

        Args:
            images: digest of the data set, with what draws these from it.
        """
        sources = [item.image for item in train]

        def make(share: range) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(share.start)
                seen = [sources[i] for i in share]
                return view_features(_encoder(self.model), seen, augment, views).transpose(0, 1)  # (n, V, E)

        name = f"{self.revision}-{images}-{augment}-{views}"
        rows = shared_rows(self.folder, name, len(train), make, max(SHARE // views, 1)).numpy()  # (N, V, E)
        return [
            item._replace(image=replace(item.image, views=own))  # type: ignore[type-var]
            for item, own in zip(train, rows, strict=True)
        ]


def _taken(items: Iterator[Item], count: int) -> Iterator[Item]:
    return (next(items) for _ in range(count))


@lru_cache(maxsize=1)
def _encoder(model: str) -> Encoder:
    return Encoder(shared_backbone(model, pick_device("auto")))


def shared_rows(
    folder: Path, name: str, count: int, make: Callable[[range], Tensor], size: int = SHARE
) -> Tensor:
    """Rows (N, ...) that several processes make together: each takes the shares that nobody makes already.

    What is made is kept, so that a killed process costs its share only, and another call nothing.

    Args:
        name: stands for all that decides the rows.
        make: positions of a share -> its rows.
        size: of a share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shares = [range(first, min(first + size, count)) for first in range(0, count, size)]
    files = [folder / f"{name}-{share.start}.safetensors" for share in shares]
    for wait in (False, True):
        for share, file in zip(shares, files, strict=True):
            with suppress(Timeout), FileLock(file.with_suffix(".lock"), blocking=wait):
                if not file.exists():
                    with whole_file(file) as beside:
                        save_file({"rows": make(share).float().cpu().contiguous()}, beside)
    return torch.cat([load_file(file)["rows"] for file in files])
