"""Own images: one folder a class, or ``train/`` and ``test/`` of such folders, or a CSV file."""

from __future__ import annotations

import csv
import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from vlprompt.data.copies import warn_of_copies
from vlprompt.data.images import images_below, readable
from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.reading import check_regular

log = logging.getLogger("vlprompt")
SPLITS = ("train", "val", "test")
VAL_NAMES = ("val", "valid", "validation")


def read_folder(folder: str | Path, show: bool = True) -> Dataset:
    """A data set from folders of images; the class name is the folder's, underscores as spaces.

    With ``train/`` and ``test/`` (and ``val/``) inside these are the splits; otherwise it is a pool.

    Raises:
        UserError: see the message.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"image folder '{folder}' does not exist: give a folder with one folder a class")
    try:
        dataset = _read_splits(folder, show)
        warn_of_copies(dataset)
        return dataset
    except PermissionError as error:
        raise UserError(f"'{error.filename}' cannot be read: change its permissions") from error


def _read_splits(folder: Path, show: bool) -> Dataset:
    inner = _split_folders(folder)
    if "train" not in inner:
        items, classes, skipped = _read_classes(folder, None, show)
        return Dataset(folder.name, class_names(classes), items, skipped=skipped)
    train, classes, skipped = _read_classes(inner["train"], None, show)
    others: dict[str, list[Item]] = {"val": [], "test": []}
    for split in others.keys() & inner.keys():
        others[split], _, more = _read_classes(inner[split], classes, show)
        skipped += more
    return Dataset(folder.name, class_names(classes), train, others["val"], others["test"], skipped=skipped)


def _split_folders(folder: Path) -> dict[str, Path]:
    names = {name: name for name in SPLITS} | dict.fromkeys(VAL_NAMES, "val")
    found = {names[p.name.lower()]: p for p in _subfolders(folder) if p.name.lower() in names}
    return found if "train" in found and len(found) > 1 else {}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_classes(
    folder: Path, expected: Sequence[str] | None, show: bool
) -> tuple[list[Item], list[str], int]:
    """Items and folder names of the classes in one folder, and how many images cannot be read."""
    classes = [p.name for p in _subfolders(folder)]
    if not classes:
        raise UserError(
            f"'{folder}' holds no class folders: put each class's images into a folder of its own"
        )
    if expected is None and len(classes) == 1:
        raise UserError(
            f"'{folder}' holds one class only ('{classes[0]}'): add a folder for each other class"
        )
    if expected is not None and (extra := sorted(set(classes) - set(expected))):
        raise UserError(
            f"class '{extra[0]}' of '{folder}' is not in the training folder: rename or remove it"
        )
    names = list(expected or classes)
    paths = {name: images_below(folder / name) for name in classes}
    good = set(readable([p for members in paths.values() for p in members], show))
    items = []
    for name in classes:
        members = [p for p in paths[name] if p in good]
        if not members:
            problem = "none can be read" if paths[name] else "there are none"
            raise UserError(
                f"class folder '{folder / name}' has no usable image ({problem}): add some or remove it"
            )
        items += [Item(path, names.index(name)) for path in members]
    return items, names, sum(map(len, paths.values())) - len(items)


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Class names of folder names or labels; a warning where two become equal."""
    names = tuple(name.replace("_", " ") for name in classes)
    for name in sorted({n for n in names if names.count(n) > 1}):
        folders = ", ".join(f"'{c}'" for c, n in zip(classes, names, strict=True) if n == name)
        log.warning("folders %s have the same class name '%s': they stay separate classes", folders, name)
    return names


def read_csv(file: str | Path, show: bool = True) -> Dataset:
    """A data set from a CSV file with the columns path, label and, where wanted, split.

    Relative paths start at the file's folder. Splits are train, val and test; without them it is a pool.

    Raises:
        UserError: names the line.
    """
    file = Path(file)
    rows = _read_rows(file)
    classes = sorted({row["label"] for row in rows})
    if len(classes) < 2:
        raise UserError(f"'{file}' names {len(classes)} class: it needs two or more")
    good = set(readable([file.parent / row["path"] for row in rows], show))
    splits: dict[str, list[Item]] = {name: [] for name in SPLITS}
    for row in rows:
        path = file.parent / row["path"]
        if path in good:
            splits[row.get("split") or "train"].append(Item(path, classes.index(row["label"])))
    there = {item.label for item in splits["train"]}
    for label, name in enumerate(classes):
        if label not in there:
            raise UserError(
                f"class '{name}' of '{file}' has no readable training image: add some or remove it"
            )
    skipped = len({row["path"] for row in rows}) - len(good)
    train, val, test = (splits[name] for name in SPLITS)
    dataset = Dataset(file.stem, class_names(classes), train, val, test, skipped=skipped)
    warn_of_copies(dataset)
    return dataset


def read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file, and its rows with the line where each ends.

    Raises:
        UserError: it does not exist, or is no CSV in UTF-8.
    """
    try:
        check_regular(file)
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            rows = [(reader.line_num, row) for row in reader]
            return list(reader.fieldnames or []), rows
    except FileNotFoundError as error:
        raise UserError(f"CSV file '{file}' does not exist: check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{file}' cannot be read as CSV ({error}): save it as UTF-8 text") from error


def _read_rows(file: Path) -> list[dict[str, str]]:
    """The checked rows of a CSV file."""
    columns, rows = read_table(file)
    if "path" not in columns or "label" not in columns:
        raise UserError(
            f"'{file}' has the columns {', '.join(columns) or 'none'}: name them path,label[,split] "
            "or, of texts, text,label[,split]"
        )
    for line, row in rows:
        if not row["path"] or not row["label"]:
            raise UserError(f"'{file}', line {line}: path or label is empty: fill it in or remove the line")
        if (row.get("split") or "train") not in SPLITS:
            raise UserError(f"'{file}', line {line}: split '{row['split']}' is none of {', '.join(SPLITS)}")
    return [row for _, row in rows]


def find_images(patterns: Sequence[str | Path]) -> list[Path]:
    """Image files named by files, folders (searched) or patterns such as ``photos/*.jpg``, in order.

    Raises:
        UserError: a name stands for no image.
    """
    found: list[Path] = []
    for pattern in map(str, patterns):
        path = Path(pattern)
        if os.path.isdir(pattern):  # which, as Path's does not, takes names that no disk would
            matches = images_below(path)
        elif os.path.exists(pattern):
            matches = [path]
        else:
            matches = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
        if not matches:
            raise UserError(
                f"'{pattern}' is no image, no folder with images and no pattern of some: check it"
            )
        found += matches
    return found
