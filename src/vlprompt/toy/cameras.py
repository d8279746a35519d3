"""What the toy world's tasks are seen through.

The backbone has seen no picture through these, as a photo model has seen few from a satellite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps

Camera = Callable[[Image.Image], Image.Image]
"""What a task is seen through."""


def waves(picture: Image.Image) -> Image.Image:
    """As through moving water: rows are shifted by a sine."""
    rows = np.asarray(picture)  # (H, W, 3)
    shifts = np.rint(4 * np.sin(np.arange(len(rows)) / 3)).astype(int)
    return Image.fromarray(np.stack([np.roll(row, n, 0) for row, n in zip(rows, shifts, strict=True)]))


def lamp(picture: Image.Image) -> Image.Image:
    """In the light of a yellow lamp."""
    return Image.fromarray((np.asarray(picture) * np.array([1.0, 0.8, 0.5])).astype(np.uint8))


def edges(picture: Image.Image) -> Image.Image:
    """Edges alone, without the border that the filter makes."""
    inner = picture.filter(ImageFilter.FIND_EDGES).crop((1, 1, picture.width - 1, picture.height - 1))
    return ImageOps.autocontrast(inner.resize(picture.size))


def mosaic(picture: Image.Image) -> Image.Image:
    """Ten by ten tiles."""
    tiles = picture.resize((10, 10), Image.Resampling.BOX)
    return tiles.resize(picture.size, Image.Resampling.NEAREST)


def thermal(picture: Image.Image) -> Image.Image:
    """Brightness in false colours."""
    return ImageOps.colorize(ImageOps.autocontrast(picture.convert("L")), "navy", "yellow", "magenta")


def sideways(picture: Image.Image) -> Image.Image:
    """The camera lies on its side."""
    return picture.transpose(Image.Transpose.ROTATE_90)
