"""Labelled images and texts: sampling, readers, decoding and augmentation. Knows no model."""

from __future__ import annotations

import os
from pathlib import Path

from vlprompt.data.benchmark import BENCHMARKS, find_benchmark, read_benchmark
from vlprompt.data.fewshot import few_shot, of_classes, subsample
from vlprompt.data.folders import find_images, read_csv, read_folder, read_table
from vlprompt.data.images import open_image
from vlprompt.data.texts import COLUMNS, Columns, read_texts
from vlprompt.dataset import Dataset, ImageSource, Item
from vlprompt.errors import UserError

__all__ = [
    "Columns",
    "Dataset",
    "ImageSource",
    "Item",
    "few_shot",
    "find_images",
    "load",
    "of_classes",
    "open_image",
    "read_csv",
    "read_folder",
    "read_texts",
    "subsample",
]


def load(name: str, root: Path | None = None, columns: Columns = COLUMNS) -> Dataset:
    """A data set by name.

    Args:
        name: a folder of class folders, a CSV file, ``toy:TASK`` or ``toy:TASK@SHIFT``, ``hub:OWNER/NAME`` or
            ``hub:FOLDER``, or a data set of the benchmark such as ``caltech101`` or ``imagenet-r``.
        root: folder of the benchmark's data sets.
        columns: of texts and their labels; a CSV file with a column ``path`` is one of images.

    Raises:
        UserError: no such data set; says what there is.
    """
    kind, _, rest = name.partition(":")
    if kind == "toy":
        from vlprompt.toy.tasks import load_task

        task, _, shift = rest.partition("@")
        return load_task(task, shift or None)
    if kind == "hub":
        from vlprompt.data.hub_datasets import read_hub

        return read_hub(rest, columns)
    path = Path(name)
    spec = find_benchmark(name)
    if spec and (root or not os.path.exists(name)):
        if root is None:
            raise UserError(
                f"data '{name}' is a data set of the benchmark: give the folder of these with --root"
            )
        return read_benchmark(spec, root)
    if path.suffix.lower() == ".csv":
        there = read_table(path)[0]
        texts = "path" not in there and (columns.text in there or columns != COLUMNS)
        return read_texts(path, columns) if texts else read_csv(path)
    if os.path.isdir(name):
        return read_folder(path)
    raise UserError(
        f"data '{name}' is no folder, no CSV file, no toy:TASK, no hub:OWNER/NAME and none of the "
        f"benchmark's data sets ({', '.join(b.name for b in BENCHMARKS)}): check it"
    )
