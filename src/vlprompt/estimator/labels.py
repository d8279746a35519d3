"""What people hand to ``fit`` and ``predict``: images and labels in the forms that scikit-learn takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils.multiclass import check_classification_targets

from vlprompt.dataset import ImageSource, Item
from vlprompt.errors import UserError


def image_list(X: Sequence[ImageSource]) -> list[ImageSource]:  # noqa: N803
    """N images, however they come.

    Raises:
        UserError: one image instead of a list, or an array of another shape than N images have.
    """
    if isinstance(X, str | Path | Image.Image):
        raise UserError(f"{type(X).__name__} is one image, not a list: give [image]")
    if isinstance(X, np.ndarray) and X.dtype != object:
        one_image = X.ndim == 3 and X.shape[-1] in (3, 4)
        if one_image or X.ndim not in (3, 4):
            raise UserError(f"an array of shape {X.shape} is not N images: give (N, H, W) or (N, H, W, 3)")
    if not isinstance(X, Iterable):
        raise UserError(f"{type(X).__name__} is no list of images: give [image]")
    return list(X)


def find_classes(y: Sequence[Any]) -> np.ndarray:
    """The distinct labels (K,), sorted.

    Raises:
        ValueError: scikit-learn's own, where labels are no classes but, say, real numbers.
    """
    check_classification_targets(y)
    return np.unique(np.asarray(y))


def labelled_items(X: Sequence[Any], y: Sequence[Any], classes: np.ndarray) -> list[Item]:  # noqa: N803
    """Images or texts with the positions of their labels among the classes (K,).

    Raises:
        UserError: not one label an image, or a label that is none of the classes.
    """
    images, labels = list(X), np.asarray(y)
    if labels.shape != (len(images),):
        raise UserError(f"{len(images)} images and labels of shape {labels.shape}: give one label an image")
    position = {label: index for index, label in enumerate(classes.tolist())}
    for label in labels.tolist():
        if label not in position:
            raise UserError(f"label '{label}' is not among the training labels: leave it out")
    return [Item(image, position[label]) for image, label in zip(images, labels.tolist(), strict=True)]


def names_of(labels: Sequence[Any], class_names: Mapping[Any, str] | Sequence[str] | None) -> tuple[str, ...]:
    """The class names of labels.

    Raises:
        UserError: a label has none.
    """
    if class_names is None:
        return tuple(map(str, labels))
    if not isinstance(class_names, Mapping | Sequence | np.ndarray) or isinstance(class_names, str):
        raise UserError(f"class_names {class_names!r}: give {{label: name}}, or a list of names")
    names = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
    for label in labels:
        if label not in names:
            raise UserError(f"label {label!r} has no name in class_names: give {{label: name}} for every one")
    return tuple(str(names[label]) for label in labels)
