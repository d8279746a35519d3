"""ImageNet and its four variants: folders of images named by WordNet id (wnid), names in ``classnames.txt``.

Labels go by wnid in sorted order, never by name: ImageNet's list holds some names twice. As in CoOp,
ImageNetV2 and ImageNet-Sketch have ImageNet's classes, so that a head of ImageNet's fits them; ImageNet-A and
ImageNet-R have the classes of their own 200 folders, labelled from 0: set these classes before evaluating.
"""

from __future__ import annotations

import os
from pathlib import Path

from vlprompt.data.images import is_image
from vlprompt.dataset import Item
from vlprompt.errors import UserError

CLASSNAMES = "classnames.txt"


def read_classnames(folder: Path) -> dict[str, str]:
    """wnid -> class name, sorted by wnid; a variant without a list of its own takes ImageNet's beside it.

    Raises:
        FileNotFoundError: neither is there.
        UserError: the list is damaged.
    """
    own, imagenet = folder / CLASSNAMES, folder.parent / "imagenet" / CLASSNAMES
    file = own if own.is_file() or not imagenet.is_file() else imagenet
    names = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        wnid, _, name = line.strip().partition(" ")
        if wnid and not name:
            raise UserError(
                f"'{file}', line {number}: '{line}' is no wnid and class name: get the file again"
            )
        if wnid:
            names[wnid] = name.strip()
    return dict(sorted(names.items()))


def read_imagenet(folder: Path) -> tuple[tuple[str, ...], list[Item], list[Item]]:
    """Class names, training images and test images (the published validation images)."""
    names = read_classnames(folder)
    train = images_by_folder(folder / "images" / "train")
    test = images_by_folder(folder / "images" / "val")
    _check_known(train, names, folder)
    labels = {wnid: label for label, wnid in enumerate(train)}
    if unknown := [wnid for wnid in test if wnid not in labels]:
        raise UserError(
            f"class '{unknown[0]}' of '{folder / 'images' / 'val'}' has no folder in "
            f"'{folder / 'images' / 'train'}': complete the training images"
        )
    return tuple(names[wnid] for wnid in train), _items(train, labels), _items(test, labels)


def read_sketch(folder: Path, images: Path) -> tuple[tuple[str, ...], list[Item]]:
    """ImageNet's class names and the images of folders named by wnid."""
    names = read_classnames(folder)
    found = images_by_folder(images)
    _check_known(found, names, folder)
    return tuple(names.values()), _items(found, {wnid: label for label, wnid in enumerate(names)})


def read_v2(folder: Path, images: Path) -> tuple[tuple[str, ...], list[Item]]:
    """ImageNet's class names and the images of folders named by label, "0" to "999"."""
    names = tuple(read_classnames(folder).values())
    found = images_by_folder(images)
    for name in found:
        if not name.isdecimal() or int(name) >= len(names):
            raise UserError(
                f"'{images / name}' is no label from 0 to {len(names) - 1}: keep the released names"
            )
    return names, _items(found, {name: int(name) for name in found})


def read_subset(folder: Path, images: Path) -> tuple[tuple[str, ...], list[Item]]:
    """Class names and images of the folders that are there, labelled from 0 (ImageNet-A and -R)."""
    names = read_classnames(folder)
    found = images_by_folder(images)
    _check_known(found, names, folder)
    labels = {wnid: label for label, wnid in enumerate(found)}
    return tuple(names[wnid] for wnid in found), _items(found, labels)


def images_by_folder(folder: Path) -> dict[str, list[str]]:
    """Folder name -> paths of its images, both sorted; not more than a listing of each folder.

    Raises:
        UserError: no folders.
    """
    with os.scandir(folder) as entries:
        classes = sorted(e.name for e in entries if e.name[0] != "." and e.is_dir())
    if not classes:
        raise UserError(
            f"'{folder}' holds no class folders: put each class's images into a folder of its own"
        )
    return {
        name: [
            os.path.join(folder, name, image)
            for image in sorted(os.listdir(folder / name))
            if is_image(Path(image))
        ]
        for name in classes
    }


def _check_known(found: dict[str, list[str]], names: dict[str, str], folder: Path) -> None:
    if unknown := [wnid for wnid in found if wnid not in names]:
        raise UserError(
            f"'{unknown[0]}' is not in {CLASSNAMES} of '{folder}': get the whole list, as CoOp's guide says"
        )


def _items(found: dict[str, list[str]], labels: dict[str, int]) -> list[Item]:
    return [Item(path, labels[name]) for name, paths in found.items() for path in paths]
