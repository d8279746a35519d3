"""Decoded images on disk, so that a second run reads pixels instead of decoding again.

An entry holds height, width and a checksum, then the uint8 pixels (H, W, 3). Its name is a hash of the
image's path, size, time of change and of the side that it was reduced to, so a changed image is another
entry. Entries are mapped, not read: the memory that they take is the system's to reclaim.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from threading import Lock
from zlib import crc32

import numpy as np

from vlprompt.errors import UserError
from vlprompt.files import cache_home, whole_file

LIMIT = 10 << 30
"""Bytes of the whole cache; 16 images of each of ImageNet's classes take 9 GB."""
KEPT_FREE = 2 << 30
"""Bytes of the disk that are left alone."""
WORTH = 1 << 16
"""Images of fewer pixels decode about as fast as a file opens."""
FORMAT = 1
"""Part of every key: another decoding or another layout of entries needs another number."""
HEADER = struct.Struct("<III")


def cache_folder() -> Path | None:
    """Folder of decoded images in the cache, where there is one."""
    home = cache_home()
    return home and home / "decoded"


class DecodedCache:
    """Pixels of image files, for several threads and processes at once.

    Args:
        folder: where the entries lie; made when the first is written.
        limit: bytes of all entries; beyond it those that were not used for longest are removed.
    """

    def __init__(self, folder: Path, limit: int = LIMIT):
        self.folder = folder
        self.limit = limit
        self._written = 0
        self._untrimmed = 0
        self._lock = Lock()

    def entry(self, image: Path, side: int) -> Path:
        """The file that holds an image's pixels, there or not.

        Raises:
            OSError: there is no such image.
        """
        stat = image.stat()
        key = f"{FORMAT}|{image.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{side}"
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        return self.folder / name[:2] / name[2:]

    def get(self, entry: Path) -> np.ndarray | None:
        """Pixels (H, W, 3) of an entry, mapped as a private copy; None if missing or damaged."""
        try:
            stored = np.memmap(entry, np.uint8, mode="c")
        except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
            return None
        if len(stored) <= HEADER.size:
            return None
        height, width, checksum = HEADER.unpack(stored[: HEADER.size].tobytes())
        pixels = stored[HEADER.size :]
        if len(pixels) != height * width * 3 or crc32(pixels.data) != checksum:
            return None
        with suppress(OSError):  # a shared cache may be read-only
            os.utime(entry)
        return pixels.reshape(height, width, 3)

    def put(self, entry: Path, pixels: np.ndarray) -> None:
        """Write an entry, unless it is not worth it or there is no room; a cache never stops the work."""
        height, width = pixels.shape[:2]
        if height * width < WORTH or self._written + pixels.nbytes > self.limit:
            return
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(entry.parent).free < KEPT_FREE + pixels.nbytes:
                return
            with whole_file(entry) as beside, beside.open("wb") as file:
                file.write(HEADER.pack(height, width, crc32(pixels.data)))
                file.write(pixels.data)
        except (OSError, UserError):
            return
        with self._lock:
            self._written += pixels.nbytes
            self._untrimmed += pixels.nbytes
            due = self._untrimmed > self.limit // 10
        if due:
            self.trim()

    def trim(self) -> None:
        """Remove the entries that were not used for longest, until the others fit the limit."""
        if not self._untrimmed:
            return
        self._untrimmed = 0
        entries = []
        for path in self.folder.glob("*/*"):
            try:
                stat = path.stat()
            except OSError:  # another process removed it
                continue
            entries.append((stat.st_mtime_ns, stat.st_size, path))
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
            excess -= size
