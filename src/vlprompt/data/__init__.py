"""Labelled images: sampling, readers, decoding and augmentation. Knows no model."""

from __future__ import annotations

from pathlib import Path

from vlprompt.data.dataset import Dataset, ImageSource, Item
from vlprompt.data.fewshot import few_shot, subsample
from vlprompt.data.folders import find_images, read_csv, read_folder
from vlprompt.data.images import open_image
from vlprompt.errors import UserError

__all__ = [
    "Dataset",
    "ImageSource",
    "Item",
    "few_shot",
    "find_images",
    "load",
    "open_image",
    "read_csv",
    "read_folder",
    "subsample",
]


def load(name: str, root: Path | None = None) -> Dataset:
    """A data set by name: a folder, a CSV file, or ``toy:TASK``.

    Raises:
        UserError: no such data set; says what there is.
    """
    if name.startswith("toy:"):
        from vlprompt.toy.tasks import load_task

        return load_task(name.removeprefix("toy:"))
    path = Path(name)
    if path.suffix.lower() == ".csv" and path.is_file():
        return read_csv(path)
    if path.is_dir():
        return read_folder(path)
    raise UserError(f"data '{name}' is no folder, no CSV file and no toy:TASK: check the path")
