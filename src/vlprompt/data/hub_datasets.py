"""Data sets of images or texts of the Hugging Face hub, through the package ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from vlprompt.data.images import read_image
from vlprompt.data.texts import COLUMNS, Columns
from vlprompt.dataset import Dataset, Item, Text
from vlprompt.errors import UserError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
SAVED = ("dataset_dict.json", "state.json")
"""What lies in a folder that ``save_to_disk`` wrote."""


@dataclass(frozen=True)
class HubImage:
    """One image of a data set of the hub, decoded when it is opened."""

    name: str
    rows: Any
    """The split, a ``datasets.Dataset`` whose images are not decoded."""
    column: str
    index: int

    def open(self) -> Image.Image:
        """The picture.

        Raises:
            UserError: it is damaged.
        """
        stored = self.rows[self.index][self.column]
        file = BytesIO(stored["bytes"]) if stored["bytes"] is not None else Path(stored["path"])
        return read_image(file, f"image {self.index} of '{self.name}'")


def read_hub(place: str, columns: Columns = COLUMNS) -> Dataset:
    """A data set by ``OWNER/NAME`` on the hub, or by a local folder that ``datasets`` can read.

    Without test images that are labelled, the validation images are for testing; a single split is a pool.

    Args:
        columns: of texts and their labels, where it has no column of images.

    Raises:
        UserError: it cannot be had, or it has no column of images or texts, or of classes.
    """
    if not place:
        raise UserError("'hub:' names no data set: give hub:OWNER/NAME or hub:FOLDER")
    name = f"hub:{place}"
    parts = _splits(_load(place), name)
    import datasets  # it is there: something was loaded

    features = next(iter(parts.values())).features
    labelled = _of_kind(features, datasets.ClassLabel) and not _of_kind(features, datasets.Image)
    texts = labelled and columns.text in features
    if texts:
        label = _chosen(features, name, "classes (ClassLabel)", datasets.ClassLabel, (columns.label,))
        items = {split: _text_items(part, columns.text, label) for split, part in parts.items()}
    else:
        image, label = _columns(features, name)
        items = {split: _items(part, name, image, label) for split, part in parts.items()}
    if not items["train"]:
        raise UserError(f"'{name}' has no labelled training {'text' if texts else 'image'}: choose another")
    names = tuple(text.replace("_", " ") for text in features[label].names)
    test, val = items.get("test"), items.get("val", [])
    return Dataset(name, names, items["train"], val if test else [], test or val)


def _load(place: str) -> Mapping[str, Any]:
    """Split name -> rows."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"'hub:{place}' needs the package datasets: install it with pip install 'vlprompt[hub]'"
        ) from error
    folder = Path(place).expanduser()
    local = folder.is_dir()
    saved = any((folder / file).is_file() for file in SAVED)
    try:
        loaded = (
            datasets.load_from_disk(str(folder))
            if saved
            else datasets.load_dataset(str(folder) if local else place)
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        remedy = (
            "check what is in that folder"
            if local
            else "check the name and the network, or give a local copy's folder"
        )
        reason = " ".join(str(error).split())
        raise UserError(f"data set 'hub:{place}' cannot be loaded ({reason}): {remedy}") from error
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _splits(loaded: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The splits under our names, training first."""
    if len(loaded) == 1:
        return {"train": next(iter(loaded.values()))}
    names = {ours: [theirs for theirs in known if theirs in loaded] for ours, known in SPLIT_NAMES.items()}
    found = {ours: loaded[theirs[0]] for ours, theirs in names.items() if theirs}
    if "train" not in found:
        raise UserError(
            f"'{name}' has the splits {', '.join(map(str, loaded))} and none named train: choose another"
        )
    return found


def _columns(features: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Names of the column of images and of that of classes."""
    import datasets

    kinds: tuple[tuple[str, type, tuple[str, ...]], ...] = (
        ("images", datasets.Image, ("image", "img")),
        ("classes (ClassLabel)", datasets.ClassLabel, ("label", "labels", "fine_label")),
    )
    chosen = [_chosen(features, name, *kind) for kind in kinds]
    return chosen[0], chosen[1]


def _of_kind(features: Mapping[str, Any], kind: type) -> list[str]:
    return [column for column, feature in features.items() if isinstance(feature, kind)]


def _chosen(features: Mapping[str, Any], name: str, what: str, kind: type, usual: Sequence[str]) -> str:
    """The column of a kind: the first of the usual names, otherwise the first of all."""
    columns = _of_kind(features, kind)
    if not columns:
        raise UserError(
            f"'{name}' has no column of {what} among {', '.join(features)}: choose a data set for "
            "classification, or name its column of texts"
        )
    return next((column for column in usual if column in columns), columns[0])


def _text_items(rows: Any, text: str, label: str) -> list[Item]:
    """Labelled texts of a split; hidden labels are None or -1, and empty texts are left out."""
    pairs = zip(rows[text], rows[label], strict=True)
    return [
        Item(Text(t), number) for t, number in pairs if t and t.strip() and number is not None and number >= 0
    ]


def _items(rows: Any, name: str, image: str, label: str) -> list[Item]:
    """Labelled images of a split; hidden labels are None or -1."""
    import datasets

    stored = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return [
        Item(HubImage(name, stored, image, index), number)
        for index, number in enumerate(rows[label])
        if number is not None and number >= 0
    ]
