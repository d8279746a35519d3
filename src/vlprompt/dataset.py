"""What a labelled data set of images or texts is, for every other part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image


@runtime_checkable
class Rendered(Protocol):
    """A picture that is drawn when it is opened (the toy world)."""

    def open(self) -> Image.Image:
        """The picture."""
        ...


class Text(str):
    """A text to be classified; any other ``str`` is the path of an image."""


ImageSource = str | Path | Image.Image | np.ndarray | Rendered


class Item(NamedTuple):
    """One labelled image, or text; ``label`` indexes the data set's ``classnames``."""

    image: ImageSource
    label: int


@dataclass(frozen=True)
class Dataset:
    """Labelled images in the field's three splits.

    ``classnames`` may hold the same name twice: such classes stay separate.
    A data set whose ``val`` and ``test`` are both empty is a pool: ``few_shot`` splits it.
    ``skipped`` is the number of images that could not be read.
    ``templates`` are hand-crafted prompts with one ``{}`` for the class name.
    """

    name: str
    classnames: tuple[str, ...]
    train: Sequence[Item]
    val: Sequence[Item] = ()
    test: Sequence[Item] = ()
    templates: tuple[str, ...] = ("a photo of a {}.",)
    skipped: int = 0

    @property
    def texts(self) -> bool:
        """Whether its items are texts."""
        return bool(self.train) and isinstance(self.train[0].image, Text)
