"""Decoded images on disk, so that a second run reads pixels instead of decoding again.

An entry's key is the image's path, size, time of change and the side that it was reduced to, so a changed
image is another entry.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlprompt.cache import ArrayCache
from vlprompt.files import cache_home

LIMIT = 10 << 30
"""Bytes of the whole cache; 16 images of each of ImageNet's classes take 9 GB."""
WORTH = 1 << 16
"""Images of fewer pixels decode about as fast as a file opens."""
FORMAT = 2
"""Part of every key: another decoding or another layout of entries needs another number."""


def cache_folder() -> Path | None:
    """Folder of decoded images in the cache, where there is one."""
    home = cache_home()
    return home and home / "decoded"


class DecodedCache(ArrayCache):
    """Pixels (H, W, 3) of image files.

    Args:
        folder, limit: see :class:`vlprompt.cache.ArrayCache`.
    """

    def __init__(self, folder: Path, limit: int = LIMIT):
        super().__init__(folder, "3u1", limit)

    def entry(self, image: Path, side: int) -> Path:
        """The file that holds an image's pixels, there or not.

        Raises:
            OSError: there is no such image.
        """
        stat = image.stat()
        return self.named(f"{FORMAT}|{image.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{side}")

    def put(self, entry: Path, pixels: np.ndarray) -> None:
        """Write an entry, unless it is not worth it or there is no room."""
        if pixels.shape[0] * pixels.shape[1] >= WORTH:
            super().put(entry, pixels)
