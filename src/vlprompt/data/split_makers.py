"""What the split of each of the field's data sets is made from, where CoOp's split file is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from vlprompt.data.splits import Row, Split, by_folder, divide, hold_out

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
