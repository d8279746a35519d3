"""CoOp's split files (``split_zhou_*.json``), and CoOp's rules for making one where it is missing.

A split file holds ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``, with paths that
start at the data set's folder of images. CoOp draws with the seed of whatever run comes first and takes files
in the order of the disk; here the seed is 1 and the order that of the names. So a split made here has
the published sizes but not the published images: those are in CoOp's own files.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from vlprompt.data.images import is_image
from vlprompt.errors import UserError
from vlprompt.files import write_text

log = logging.getLogger("vlprompt")
SEED = 1
TRAIN_SHARE, VAL_SHARE = 0.5, 0.2
"""Shares of a class's images where a data set has no split of its own; the rest is for testing."""
HELD_OUT = 0.2
"""Share of a class's training images that validation gets where a data set has a test split of its own."""

CALTECH_IGNORED = ("BACKGROUND_Google", "Faces_easy")
CALTECH_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}


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
        content = json.loads(file.read_text(encoding="utf-8"))
        return Split(*([_row(*row) for row in content[name]] for name in Split._fields))
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"split file '{file}' is damaged ({error!r}): get it again, or remove it to have another made"
        ) from error


def _row(path: str, label: int, classname: str) -> Row:
    return Row(str(path), int(label), str(classname))


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


def caltech101(folder: Path) -> Split:
    """One folder a class, without the background and the second set of faces."""
    return by_folder(folder / "101_ObjectCategories", CALTECH_NAMES, CALTECH_IGNORED)


def food101(folder: Path) -> Split:
    """One folder a class."""
    return by_folder(folder / "images")


def dtd(folder: Path) -> Split:
    """One folder a class."""
    return by_folder(folder / "images")


def eurosat(folder: Path) -> Split:
    """One folder a class, with names that say more."""
    return by_folder(folder / "2750", EUROSAT_NAMES)


def oxford_pets(folder: Path) -> Split:
    """``annotations/{trainval,test}.txt``: lines "Breed_name_12 class species breed"."""

    def rows(name: str) -> list[Row]:
        found = []
        for line in lines_of(folder / "annotations" / name):
            image, label, *_ = line.split(" ")
            found.append(Row(f"{image}.jpg", int(label) - 1, image.rpartition("_")[0].lower()))
        return found

    return hold_out(rows("trainval.txt"), rows("test.txt"))


def stanford_cars(folder: Path) -> Split:
    """The annotations of the development kit; the year comes to the front of a class name."""
    classes = [str(name[0]) for name in _matlab(folder / "devkit" / "cars_meta.mat")["class_names"][0]]

    def rows(images: str, annotations: Path) -> list[Row]:
        found = []
        for record in _matlab(annotations)["annotations"][0]:
            label = int(record["class"][0, 0]) - 1
            model, _, year = classes[label].rpartition(" ")
            found.append(Row(f"{images}/{record['fname'][0]}", label, f"{year} {model}"))
        return found

    return hold_out(
        rows("cars_train", folder / "devkit" / "cars_train_annos.mat"),
        rows("cars_test", folder / "cars_test_annos_withlabels.mat"),
    )


def oxford_flowers(folder: Path) -> Split:
    """``imagelabels.mat``: the class, from 1, of ``jpg/image_00001.jpg`` and so on."""
    labels = _matlab(folder / "imagelabels.mat")["labels"][0]
    names = json.loads((folder / "cat_to_name.json").read_text(encoding="utf-8"))
    members: dict[int, list[str]] = {}
    for number, label in enumerate(labels, 1):
        members.setdefault(int(label), []).append(f"image_{number:05}.jpg")
    return divide((label - 1, names[str(label)], paths) for label, paths in members.items())


def sun397(folder: Path) -> Split:
    """``ClassName.txt`` and the first partition: lines such as "/a/airport/indoor/sun_abc.jpg".

    The class name there is "indoor airport": without the letter, the last part first.
    """
    labels = {line.removeprefix("/"): label for label, line in enumerate(lines_of(folder / "ClassName.txt"))}

    def rows(name: str) -> list[Row]:
        found = []
        for line in lines_of(folder / name):
            path = line.removeprefix("/")
            place = path.rpartition("/")[0]
            found.append(Row(path, labels[place], " ".join(reversed(place.split("/")[1:]))))
        return found

    return hold_out(rows("Training_01.txt"), rows("Testing_01.txt"))


def ucf101(folder: Path) -> Split:
    """The first split of ``ucfTrainTestlist``: lines such as "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1".

    The middle frame of that film is "Apply_Eye_Makeup/v_ApplyEyeMakeup_g08_c01.jpg".
    """
    lists = folder / "ucfTrainTestlist"
    labels = {}
    for line in lines_of(lists / "classInd.txt"):
        number, action = line.split(" ")
        labels[action] = int(number) - 1

    def rows(name: str) -> list[Row]:
        found = []
        for line in lines_of(lists / name):
            action, _, film = line.split(" ")[0].partition("/")
            words = "_".join(re.findall("[A-Z][^A-Z]*", action))
            found.append(Row(f"{words}/{film.removesuffix('.avi')}.jpg", labels[action], words))
        return found

    return hold_out(rows("trainlist01.txt"), rows("testlist01.txt"))


def lines_of(file: Path) -> list[str]:
    """Lines of a text file that are not empty."""
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _matlab(file: Path) -> Any:
    """Variables of a MATLAB file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with file.open("rb") as opened:
        try:
            return loadmat(opened)
        except MatReadError as error:
            raise ValueError(f"'{file}': {error}") from error
