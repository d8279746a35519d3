"""Files and folders that are whole or not there, and take the place of nothing but what this program made."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil

from vlprompt.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MARK = "vlprompt, format 1"
"""Stands at the beginning of every file of its own that this program may write over."""
LISTED = ".vlprompt"
"""File of a folder of its own: the mark and what the folder is, and the names of what is ours in there."""
BEGINNING = 4096
REMEDY = "give another name, or --force (force=True) to have it replaced"
OTHERS = f"it was not made by vlprompt: {REMEDY}"


def check_targets(*paths: Path, force: bool = False) -> None:
    """Refuse, before any work, what could not be written at its end.

    Raises:
        UserError: a place that cannot be written, or that holds what this program did not make.
    """
    for path in map(_absolute, paths):
        try:
            if path.is_symlink():
                raise UserError(f"output '{path}' is a link: give the name of what it points to")
            if path.exists():
                if not stat.S_ISREG(path.stat().st_mode):
                    raise UserError(f"output '{path}' is no file: give the name of one")
                if not force and not _marked(path):
                    raise UserError(f"file '{path}' exists: {OTHERS}")
            _try_writing(path)
        except OSError as error:
            raise _unwritable(path, error) from error


def cache_home() -> Path | None:
    """Folder of what can be made again, ``VLPROMPT_CACHE`` or ``~/.cache/vlprompt``; None for 'off'."""
    chosen = os.environ.get("VLPROMPT_CACHE", "")
    if chosen.lower() == "off":
        return None
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{home}/vlprompt").expanduser()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new name beside ``path`` to write to; when all went well it takes the place of ``path``.

    Folders above are made. Several processes may write the same file: the last one wins, and nobody
    reads half a file.

    Raises:
        UserError: the place cannot be written, or is full.
    """
    with _part(path) as beside:
        try:
            yield beside
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def whole_files(first: Path, *others: Path) -> Iterator[Path]:
    """A new folder to write files of these names to, all of one folder; ``first`` takes its place last.

    Raises:
        UserError: the place cannot be written, or is full.
    """
    with _part(first) as room:
        room.mkdir()
        try:
            yield room
            for path in (*others, first):
                if (room / path.name).exists():
                    os.replace(room / path.name, path)
        finally:
            shutil.rmtree(room, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all.

    Raises:
        UserError: the place cannot be written, or is full.
    """
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")


def folder_beside(target: Path, what: str, force: bool = False) -> Path:
    """The folder ``target.part``, made if need be and writable; it may hold what an earlier call left.

    Args:
        what: what ``target`` is to hold, in a word or two.
        force: replace ``target`` whoever made it.

    Raises:
        UserError: the place cannot be written, or ``target`` holds what this program did not make.
    """
    target = _absolute(target)
    beside, old = _around(target)
    try:
        for folder in (target, beside, old):
            _check_folder(folder, what, force and folder == target)
        if not (beside / LISTED).exists():
            _make_marked(beside, what)
        _try_writing(beside / LISTED)
    except OSError as error:
        raise UserError(
            f"output '{target}' cannot be written ({error.strerror}): give a folder you may write to"
        ) from error
    return beside


def _make_marked(beside: Path, what: str) -> None:
    """A folder that has its mark from the start: one without it would never be taken for ours again."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    _sweep(beside)
    room = _own_name(beside)
    try:
        room.mkdir()
        (room / LISTED).write_text(f"{MARK}: {what}\n")
        os.replace(room, beside)
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def whole_folder(target: Path, what: str, kept: str = "", force: bool = False) -> Iterator[Path]:
    """The folder of :func:`folder_beside` to write into; when all went well it takes ``target``'s place.

    Args:
        kept: pattern of files for whose sake the folder stays when the writing is cut off.

    Raises:
        UserError: the place cannot be written, is full, or ``target`` holds what this program did not make.
    """
    target = _absolute(target)
    beside, old = _around(target)
    new = not os.path.exists(beside)
    folder_beside(target, what, force)
    if not kept:  # what a killed process left is of no use, and need not have a name that is written over
        for left in beside.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            elif left.name != LISTED:
                left.unlink()
    try:
        yield beside
        _list(beside, what)
        _check_folder(target, what, force)
    except BaseException as error:
        if new and not (kept and any(beside.glob(kept))):
            shutil.rmtree(beside, ignore_errors=True)
        if (number := _number(error)) in FULL:
            raise UserError(
                f"output '{target}' cannot be written ({os.strerror(number)}): make room"
            ) from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(beside, target)
    shutil.rmtree(old, ignore_errors=True)


def _absolute(path: Path) -> Path:
    """So that it has a name, also where it is '.'."""
    try:
        return Path(os.path.abspath(path))
    except OSError as error:
        raise UserError("the present folder is gone: change to one that is there") from error


def growing(target: Path) -> Path:
    """Where :func:`whole_folder` lets a folder grow."""
    return _around(_absolute(target))[0]


def _around(target: Path) -> tuple[Path, Path]:
    """Beside a folder: where the new one grows, and where the one before waits until that is in its place."""
    if not target.name:
        raise UserError(f"output '{target}' is no folder of its own: give the name of one")
    return target.with_name(target.name + ".part"), target.with_name(f".{target.name}.old")


def _marked(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(BEGINNING)


def _check_folder(folder: Path, what: str, force: bool) -> None:
    """Raise unless there is nothing, or only what this program made."""
    if folder.is_symlink():
        raise UserError(f"output '{folder}' is a link: give the name of what it points to")
    if force or not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    listed = folder / LISTED
    if not folder.is_dir() or listed.is_symlink() or not listed.is_file() or not _marked(listed):
        raise UserError(f"output '{folder}' exists and is no {what} of ours: {OTHERS}")
    mark, *own = listed.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if (kind := mark.partition(": ")[2]) not in ("", what):  # earlier marks name none
        raise UserError(f"output '{folder}' is a {kind} and no {what}: {REMEDY}")
    if foreign := sorted(set(_names(folder)) - set(own)) if own else []:  # none are listed while it grows
        raise UserError(f"output '{folder}' holds '{foreign[0]}': {OTHERS}")


def _names(folder: Path) -> Iterator[str]:
    """Names of all files below a folder, but for the list itself."""
    for where, _, files in os.walk(folder):
        yield from (
            n for n in (os.path.relpath(os.path.join(where, f), folder) for f in files) if n != LISTED
        )


def _list(folder: Path, what: str) -> None:
    """Mark a folder as finished; its files are readable as far as the user lets new files be."""
    os.umask(mask := os.umask(0))
    for name in (names := sorted(_names(folder))):
        if not (folder / name).is_symlink():
            (folder / name).chmod(0o666 & ~mask)
    lines = "\n".join((f"{MARK}: {what}", *names)) + "\n"
    (folder / LISTED).write_text(lines, encoding="utf-8", errors="surrogateescape")


def _try_writing(path: Path) -> None:
    """Raise an OSError unless a file could be made in the nearest folder above that is there."""
    above = next(folder for folder in path.parents if folder.exists())
    probe = above / f".{uuid4().hex}.part"
    probe.touch()
    probe.unlink()
    path.exists()  # whether its name is one that this disk takes


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """A new name beside ``path``, whose folder is made; parts that killed processes left are taken away.

    Raises:
        UserError: the place cannot be written, or is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield _own_name(path)
    except Exception as error:
        if (number := _number(error)) is None:
            raise
        raise _unwritable(path, OSError(number, os.strerror(number))) from error


def _own_name(path: Path) -> Path:
    """A new name beside a path, of this process."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.part")


def _sweep(path: Path) -> None:
    """Remove what processes that were killed left of this file."""
    for left in path.parent.glob(f".{_escaped(path.name)}.*-*.part"):
        pid = left.name.rsplit(".", 2)[1].partition("-")[0]
        if pid.isdecimal() and psutil.pid_exists(int(pid)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _number(error: BaseException) -> int | None:
    """The system's number of an error, which libraries in Rust, such as safetensors, have in words only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"file '{path}' cannot be written ({error.strerror}): give a place to write to, with room"
    )
