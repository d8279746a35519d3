"""Arrays on disk that can be made again: never wrong, never in the way, within a limit; and what is there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import DTypeLike

from vlprompt.errors import UserError
from vlprompt.files import cache_home, whole_file

KEPT_FREE = 2 << 30
"""Bytes of the disk that are left alone."""
HEADER = struct.Struct("<III")
KINDS = {
    "decoded": "pixels of decoded images",
    "features": "frozen features of images and texts",
    "weights": "weights converted to safetensors",
    "digests": "digests of weights",
}
"""What the folders of the cache hold."""
OWN = re.compile(r"([0-9a-f]{2}/\.?[0-9a-f]{62}|\.?[0-9a-f]{64}(\.safetensors)?)(\.[\w-]+\.part)?")
"""Names below such a folder of what this program wrote, half-written or not."""


class ArrayCache:
    """Arrays of two axes on disk, for several threads and processes at once.

    An entry holds rows, columns and a checksum of its name and content, then the content. The memory that
    a mapped entry takes is the system's to reclaim.

    Args:
        folder: where the entries lie; made when the first is written.
        item: what the arrays consist of, e.g. ``<f4`` or ``3u1``.
        limit: bytes of all entries; beyond it those that were not used for longest are removed.
    """

    def __init__(self, folder: Path, item: DTypeLike, limit: int):
        self.folder, self.item, self.limit = folder, np.dtype(item), limit
        self._written = 0
        self._untrimmed = 0
        self._lock = Lock()

    def named(self, key: str) -> Path:
        """The file of the entry with a key, there or not."""
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        return self.folder / name[:2] / name[2:]

    def get(self, entry: Path) -> np.ndarray | None:
        """The array (rows, columns, ...) of an entry, a private copy; None if missing or damaged."""
        try:
            stored = np.memmap(entry, np.uint8, mode="c")
        except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
            return None
        if len(stored) < HEADER.size:
            return None
        rows, columns, checksum = HEADER.unpack(stored[: HEADER.size].tobytes())
        content = stored[HEADER.size :]
        if len(content) != rows * columns * self.item.itemsize or _checksum(entry, content) != checksum:
            return None
        with suppress(OSError):  # a shared cache may be read-only
            os.utime(entry)
        return content.view(self.item.base).reshape(rows, columns, *self.item.shape)

    def put(self, entry: Path, array: np.ndarray) -> None:
        """Write an entry, unless there is no room; a cache never stops the work."""
        if self._written + array.nbytes > self.limit:
            return
        content = np.ascontiguousarray(array, self.item.base).reshape(-1).view(np.uint8)
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(entry.parent).free < KEPT_FREE + array.nbytes:
                return
            with whole_file(entry) as beside, beside.open("wb") as file:
                file.write(HEADER.pack(*array.shape[:2], _checksum(entry, content)))
                file.write(content.data)
        except (OSError, UserError):
            return
        with self._lock:
            self._written += array.nbytes
            self._untrimmed += array.nbytes
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


def _checksum(entry: Path, content: np.ndarray) -> int:
    return crc32(content.data, crc32(entry.name.encode()))


class Kind(NamedTuple):
    """How much of one kind the cache holds."""

    name: str
    what: str
    files: int
    bytes: int


def usage() -> list[Kind]:
    """How much of every kind there is.

    Raises:
        UserError: the cache is off.
    """
    found = []
    for name, what in KINDS.items():
        sizes = []
        for path in _own(name):
            with suppress(OSError):  # another process removed it
                sizes.append(path.stat().st_size)
        found.append(Kind(name, what, len(sizes), sum(sizes)))
    return found


def clear(kinds: tuple[str, ...] = ()) -> None:
    """Remove what this program wrote there: of these kinds, or of all.

    Raises:
        UserError: the cache is off, or a file cannot be removed.
    """
    for path in (path for name in kinds or KINDS for path in _own(name)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"'{path}' cannot be removed ({error.strerror}): change its permissions"
            ) from error


def _own(kind: str) -> list[Path]:
    home = cache_home()
    if home is None:
        raise UserError("the cache is off (VLPROMPT_CACHE=off): name its folder, or unset the variable")
    folder = home / kind
    return [p for p in folder.rglob("*") if OWN.fullmatch(p.relative_to(folder).as_posix()) and p.is_file()]
