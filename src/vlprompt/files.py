"""Files and folders that are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from vlprompt.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new name beside ``path`` to write to; when all went well it takes the place of ``path``.

    Folders above are made. Several processes may write the same file: the last one wins, and nobody
    reads half a file.

    Raises:
        UserError: the place cannot be written, or is full.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"file '{path}' cannot be written ({error.strerror}): give a place to write to, with room"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all.

    Raises:
        UserError: the place cannot be written, or is full.
    """
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def folder_beside(target: Path, what: str, marker: str) -> Path:
    """The folder ``target.part``, made if need be and writable; it may hold what an earlier call left.

    Args:
        what: what ``target`` is to hold, in a word or two.
        marker: a file that says that ``target`` holds such a thing already.

    Raises:
        UserError: the place cannot be written, or ``target`` holds something else.
    """
    target = Path(os.path.abspath(target))  # so that it has a name, also where it is '.'
    beside = target.with_name(target.name + ".part")
    try:
        empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
        if not empty and not (target / marker).is_file():
            raise UserError(f"output '{target}' exists and is no {what}: give another folder or remove it")
        beside.mkdir(parents=True, exist_ok=True)
        probe = beside / ".write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output '{target}' cannot be written ({error.strerror}): give a folder you may write to"
        ) from error
    return beside


@contextmanager
def whole_folder(target: Path, what: str, marker: str, kept: str = "") -> Iterator[Path]:
    """The folder of :func:`folder_beside` to write into; when all went well it takes ``target``'s place.

    Args:
        kept: pattern of files for whose sake the folder stays when the writing is cut off.

    Raises:
        UserError: the place cannot be written, is full, or ``target`` holds something else.
    """
    target = Path(os.path.abspath(target))
    old = target.with_name(target.name + ".old")
    beside = folder_beside(target, what, marker)
    new = not any(beside.iterdir())
    try:
        yield beside
    except BaseException as error:
        if new and not (kept and any(beside.glob(kept))):
            shutil.rmtree(beside)
        if isinstance(error, OSError) and error.errno in FULL:
            raise UserError(f"output '{target}' cannot be written ({error.strerror}): make room") from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(beside, target)
    shutil.rmtree(old, ignore_errors=True)
