"""The field's 11 data sets and ImageNet's 4 variants, read as they lie on disk for CoOp, under one root."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vlprompt.data import imagenet, split_makers, splits
from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError

PHOTO = "a photo of a {}."


@dataclass(frozen=True)
class Benchmark:
    """One data set: where it lies, what it should hold, who publishes it, how it is read."""

    name: str
    title: str
    """Name in papers and in CoOp's configuration files."""
    folder: str
    images: str
    """Folder of images inside ``folder``; "" is ``folder`` itself."""
    classes: int
    counts: tuple[int, int, int]
    """Images for training, validation and testing; 0 where there is no such split."""
    template: str
    home: str
    """Title of the page that publishes it."""
    read: Callable[[Benchmark, Path, bool], Dataset]
    """From itself, its folder and whether a split file that had to be made is saved."""
    split_file: str = ""
    make: splits.Maker | None = None
    """Makes the content of a missing ``split_file``."""

    def dataset(
        self,
        classnames: Sequence[str],
        train: Sequence[Item] = (),
        val: Sequence[Item] = (),
        test: Sequence[Item] = (),
    ) -> Dataset:
        """A data set of this name, with underscores of class names as spaces."""
        names = tuple(name.replace("_", " ") for name in classnames)
        return Dataset(self.name, names, train, val, test, (self.template,))


def _read_split(spec: Benchmark, folder: Path, save: bool) -> Dataset:
    """A data set with one of CoOp's split files."""
    assert spec.make is not None
    file = folder / spec.split_file
    split = splits.read_or_make(file, spec.make, save)
    names = {row.label: row.classname for part in split for row in part}
    if sorted(names) != list(range(len(names))):
        raise UserError(
            f"labels of split file '{file}' do not count from 0 to {len(names) - 1}: get it again"
        )
    images = folder / spec.images
    parts = [[Item(os.path.join(images, row.path), row.label) for row in part] for part in split]
    return spec.dataset([names[label] for label in range(len(names))], *parts)


def _read_aircraft(spec: Benchmark, folder: Path, save: bool) -> Dataset:
    """Variants by name, one a line, and lines such as "1025794 707-320" for each split."""
    labels = {name: label for label, name in enumerate(split_makers.lines_of(folder / "variants.txt"))}
    parts = []
    for part in ("train", "val", "test"):
        file = folder / f"images_variant_{part}.txt"
        items = []
        for line in split_makers.lines_of(file):
            image, _, name = line.partition(" ")
            if name not in labels:
                raise UserError(f"variant '{name}' of '{file}' is not in variants.txt: get both files again")
            items.append(Item(os.path.join(folder, spec.images, f"{image}.jpg"), labels[name]))
        parts.append(items)
    return spec.dataset(list(labels), *parts)


def _read_imagenet(spec: Benchmark, folder: Path, save: bool) -> Dataset:
    """ImageNet's published validation images are for testing, and stand in for validation images."""
    names, train, test = imagenet.read_imagenet(folder)
    return spec.dataset(names, train, test, test)


def _read_variant(
    read: Callable[[Path, Path], tuple[tuple[str, ...], list[Item]]],
) -> Callable[[Benchmark, Path, bool], Dataset]:
    """A variant of ImageNet, for testing only."""

    def read_variant(spec: Benchmark, folder: Path, save: bool) -> Dataset:
        names, test = read(folder, folder / spec.images)
        return spec.dataset(names, test=test)

    return read_variant


BENCHMARKS = (
    Benchmark(
        "imagenet", "ImageNet", "imagenet", "images", 1000, (1_281_167, 0, 50_000), PHOTO,
        "ImageNet, ILSVRC 2012 (image-net.org)", _read_imagenet,
    ),
    Benchmark(
        "caltech101", "Caltech101", "caltech-101", "101_ObjectCategories", 100, (4_128, 1_649, 2_465), PHOTO,
        "Caltech 101, CaltechDATA", _read_split, "split_zhou_Caltech101.json", split_makers.caltech101,
    ),
    Benchmark(
        "oxfordpets", "OxfordPets", "oxford_pets", "images", 37, (2_944, 736, 3_669),
        "a photo of a {}, a type of pet.",
        "The Oxford-IIIT Pet Dataset, Visual Geometry Group, Oxford", _read_split,
        "split_zhou_OxfordPets.json", split_makers.oxford_pets,
    ),
    Benchmark(
        "stanfordcars", "StanfordCars", "stanford_cars", "", 196, (6_509, 1_635, 8_041), PHOTO,
        "Cars Dataset, Stanford AI Lab", _read_split,
        "split_zhou_StanfordCars.json", split_makers.stanford_cars,
    ),
    Benchmark(
        "flowers102", "OxfordFlowers", "oxford_flowers", "jpg", 102, (4_093, 1_633, 2_463),
        "a photo of a {}, a type of flower.",
        "102 Category Flower Dataset, Visual Geometry Group, Oxford", _read_split,
        "split_zhou_OxfordFlowers.json", split_makers.oxford_flowers,
    ),
    Benchmark(
        "food101", "Food101", "food-101", "images", 101, (50_500, 20_200, 30_300),
        "a photo of {}, a type of food.",
        "The Food-101 Data Set, Computer Vision Lab, ETH Zurich", _read_split, "split_zhou_Food101.json",
        split_makers.food101,
    ),
    Benchmark(
        "fgvcaircraft", "FGVCAircraft", "fgvc_aircraft", "images", 100, (3_334, 3_333, 3_333),
        "a photo of a {}, a type of aircraft.",
        "FGVC-Aircraft Benchmark, Visual Geometry Group, Oxford", _read_aircraft,
    ),
    Benchmark(
        "sun397", "SUN397", "sun397", "SUN397", 397, (15_880, 3_970, 19_850), PHOTO,
        "SUN Database: Scene Categorization Benchmark, Princeton", _read_split, "split_zhou_SUN397.json",
        split_makers.sun397,
    ),
    Benchmark(
        "dtd", "DescribableTextures", "dtd", "images", 47, (2_820, 1_128, 1_692), "{} texture.",
        "Describable Textures Dataset, Visual Geometry Group, Oxford", _read_split,
        "split_zhou_DescribableTextures.json", split_makers.dtd,
    ),
    Benchmark(
        "eurosat", "EuroSAT", "eurosat", "2750", 10, (13_500, 5_400, 8_100),
        "a centered satellite photo of {}.",
        "EuroSAT: Land Use and Land Cover Classification with Sentinel-2, DFKI", _read_split,
        "split_zhou_EuroSAT.json", split_makers.eurosat,
    ),
    Benchmark(
        "ucf101", "UCF101", "ucf101", "UCF-101-midframes", 101, (7_639, 1_898, 3_783),
        "a photo of a person doing {}.",
        "UCF101 - Action Recognition Data Set, UCF; its middle frames: CoOp's DATASETS.md",
        _read_split, "split_zhou_UCF101.json", split_makers.ucf101,
    ),
    Benchmark(
        "imagenetv2", "ImageNetV2", "imagenetv2", "imagenetv2-matched-frequency-format-val", 1000,
        (0, 0, 10_000), PHOTO, "ImageNetV2, matched frequency (modestyachts)",
        _read_variant(imagenet.read_v2),
    ),
    Benchmark(
        "imagenet-sketch", "ImageNetSketch", "imagenet-sketch", "images", 1000, (0, 0, 50_889), PHOTO,
        "ImageNet-Sketch (Haohan Wang)", _read_variant(imagenet.read_sketch),
    ),
    Benchmark(
        "imagenet-a", "ImageNetA", "imagenet-adversarial", "imagenet-a", 200, (0, 0, 7_500), PHOTO,
        "Natural Adversarial Examples (Dan Hendrycks)", _read_variant(imagenet.read_subset),
    ),
    Benchmark(
        "imagenet-r", "ImageNetR", "imagenet-rendition", "imagenet-r", 200, (0, 0, 30_000), PHOTO,
        "ImageNet-R(endition) (Dan Hendrycks)", _read_variant(imagenet.read_subset),
    ),
)  # fmt: skip


def find_benchmark(name: str) -> Benchmark | None:
    """A data set by its name, title or folder, in any case, with or without hyphens; else None."""
    plain = _plain(name)
    for spec in BENCHMARKS:
        if plain in map(_plain, (spec.name, spec.title, spec.folder)):
            return spec
    return None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def read_benchmark(spec: Benchmark, root: Path, save: bool = True) -> Dataset:
    """A data set under ``root``.

    Args:
        save: write a split file that had to be made.

    Raises:
        UserError: it is not there, or something of it is missing or damaged.
    """
    folder = root / spec.folder
    try:
        if not folder.is_dir():
            raise UserError(
                f"data set '{spec.name}' is not under '{root}': put it into '{folder}', laid out as for CoOp "
                f"(published as: {spec.home})"
            )
        dataset = spec.read(spec, folder, save)
        if not (folder / spec.images).is_dir():
            raise UserError(f"'{folder / spec.images}' is missing: put the images of '{spec.name}' there")
        return dataset
    except FileNotFoundError as error:
        raise UserError(
            f"'{error.filename}' is missing from data set '{spec.name}': get it (published as: {spec.home})"
        ) from error
    except OSError as error:
        raise UserError(
            f"'{error.filename}' of data set '{spec.name}' cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"a list of data set '{spec.name}' in '{folder}' is no UTF-8 text: get it again"
        ) from error


def check(root: Path) -> list[dict[str, str]]:
    """What is there of every data set under ``root``, against the published counts ("there/published").

    Nothing is written and no image is opened: folders are listed.
    """
    return [_check(spec, root) for spec in BENCHMARKS]


def _check(spec: Benchmark, root: Path) -> dict[str, str]:
    folder = root / spec.folder
    problems = []
    classes, there = 0, [0, 0, 0]
    try:
        dataset = read_benchmark(spec, root, save=False)
    except UserError as error:
        problems.append(str(error) if os.path.isdir(folder) else f"folder '{folder}'")
    else:
        absent, there = _count(dataset)
        classes = len(dataset.classnames)
        if absent:
            problems.append(f"{len(absent)} images, such as '{absent[0]}'")
        elif any(n != m for n, m in zip([classes, *there], [spec.classes, *spec.counts], strict=True) if m):
            problems.append("the counts are not the published ones")
    complete = not problems
    if spec.split_file and not (folder / spec.split_file).is_file():
        problems.append(f"{spec.split_file} (from CoOp's DATASETS.md; otherwise one is made at first use)")
    counts = zip(("train", "val", "test"), there, spec.counts, strict=True)
    return {
        "name": spec.name,
        "found": "yes" if complete else "incomplete" if os.path.isdir(folder) else "no",
        "folder": spec.folder,
        "classes": f"{classes}/{spec.classes}",
        **{part: f"{n}/{published}" if published else "-" for part, n, published in counts},
        "missing": "; ".join(problems),
        "published": "" if complete else spec.home,
    }


def _count(dataset: Dataset) -> tuple[list[str], list[int]]:
    """Paths of images that are not there, and the number of those that are, for each split."""

    @cache
    def listed(folder: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(folder))
        except OSError:
            return frozenset()

    absent, there = [], []
    for items in (dataset.train, dataset.val, dataset.test):
        gone = [
            str(i.image)
            for i in items
            if os.path.basename(str(i.image)) not in listed(os.path.dirname(str(i.image)))
        ]
        absent += gone
        there.append(len(items) - len(gone))
    return absent, there
