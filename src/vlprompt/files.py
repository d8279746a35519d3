"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A new name beside ``path`` to write to; when all went well it takes the place of ``path``.

    Several processes may write the same file: the last one wins, and nobody reads half a file.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
