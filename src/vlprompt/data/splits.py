"""CoOp's split files (``split_zhou_*.json``), and CoOp's rules for making one where it is missing.

A split file holds ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``, with paths that
start at the data set's folder of images. CoOp draws with the seed of whatever run comes first and takes files
in the order of the disk; here the seed is 1 and the order that of the names. So a split made here has
the published sizes but not the published images: those are in CoOp's own files. What each data set's split
is made from is in ``split_makers.py``.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from vlprompt.data.images import is_image
from vlprompt.errors import UserError
from vlprompt.files import write_text
from vlprompt.reading import parse_json, read_text
from vlprompt.typed import checked

log = logging.getLogger("vlprompt")
SEED = 1
LARGEST_SPLIT = 500_000_000
"""Bytes; that of ImageNet has 150 MB."""
TRAIN_SHARE, VAL_SHARE = 0.5, 0.2
"""Shares of a class's images where a data set has no split of its own; the rest is for testing."""
HELD_OUT = 0.2
"""Share of a class's training images that validation gets where a data set has a test split of its own."""


class Row(NamedTuple):
    """One image of a split file."""

    path: str
    label: int
    classname: str


class Split(NamedTuple):
    """The content of a split file."""

    train: list[Row]
    val: list[Row]
    test: list[Row]


Maker = Callable[[Path], Split]
"""From a data set's folder to its split."""


def read_or_make(file: Path, make: Maker, save: bool = True) -> Split:
    """A split file's content; where the file is missing it is made by CoOp's rule, and saved.

    Raises:
        UserError: the file is damaged, or it is missing and cannot be made.
    """
    if file.is_file():
        return _read(file)
    try:
        split = make(file.parent)
    except FileNotFoundError as error:
        raise UserError(
            f"'{file}' is missing, and so is '{error.filename}', from which it could be made: put one there"
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"'{file}' is missing, and what it could be made from is damaged ({error}): "
            "put CoOp's split file there"
        ) from error
    if save:
        _save(split, file)
    return split


def _read(file: Path) -> Split:
    try:
        content = parse_json(read_text(file, LARGEST_SPLIT), dict[str, Any], file.name)
        return Split(*([_row(*row) for row in content[name]] for name in Split._fields))
    except (OSError, ValueError, LookupError, TypeError, UserError) as error:
        raise UserError(
            f"split file '{file}' is damaged ({error!r}): get it again, or remove it to have another made"
        ) from error


def _row(path: str, label: int, classname: str) -> Row:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"the path '{path}' leaves the folder")
    return Row(path, checked(label, int, "label"), checked(classname, str, "class name"))


def _save(split: Split, file: Path) -> None:
    log.warning(
        "'%s' was missing and is made by CoOp's rule: for the images of CoOp's papers use CoOp's own file",
        file,
    )
    with suppress(UserError):  # read-only: it is made again, the same, next time
        write_text(file, json.dumps(split._asdict(), ensure_ascii=False))


def divide(classes: Iterable[tuple[int, str, list[str]]]) -> Split:
    """Half of each class's paths for training, a fifth for validation, the rest for testing."""
    rng = random.Random(SEED)
    split = Split([], [], [])
    for label, name, paths in classes:
        rows = [Row(path, label, name) for path in paths]
        rng.shuffle(rows)
        train = round(len(rows) * TRAIN_SHARE)
        val = train + round(len(rows) * VAL_SHARE)
        if not 0 < train < val < len(rows):
            raise ValueError(f"class '{name}' has {len(rows)} images, too few to divide")
        split.train.extend(rows[:train])
        split.val.extend(rows[train:val])
        split.test.extend(rows[val:])
    return split


def hold_out(rows: Iterable[Row], test: list[Row]) -> Split:
    """A fifth of each class's training rows for validation."""
    rng = random.Random(SEED)
    members: dict[int, list[Row]] = {}
    for row in rows:
        members.setdefault(row.label, []).append(row)
    split = Split([], [], test)
    for of_class in members.values():
        count = round(len(of_class) * HELD_OUT)
        if not count:
            raise ValueError(f"class '{of_class[0].classname}' has {len(of_class)} training images, too few")
        rng.shuffle(of_class)
        split.val.extend(of_class[:count])
        split.train.extend(of_class[count:])
    return split


def by_folder(images: Path, names: Mapping[str, str] | None = None, ignored: Collection[str] = ()) -> Split:
    """The split of a folder with one folder a class; ``names`` are class names other than the folder's."""
    folders = sorted(p for p in images.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in ignored)
    if not folders:
        raise ValueError(f"'{images}' holds no class folders")
    return divide(
        (
            label,
            (names or {}).get(folder.name, folder.name),
            [f"{folder.name}/{p.name}" for p in sorted(folder.iterdir()) if is_image(p)],
        )
        for label, folder in enumerate(folders)
    )
