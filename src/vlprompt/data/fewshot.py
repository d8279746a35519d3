"""Few-shot sampling and base/new classes, image for image those of CoOp's release."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil
from typing import Literal

from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError

log = logging.getLogger("vlprompt")
MAX_VAL_SHOTS = 4


def few_shot(dataset: Dataset, shots: int | None, seed: int, strict: bool = False) -> Dataset:
    """A few images a class for training, and min(shots, 4) a class for validation.

    From a data set with splits, as CoOp's release does. From a pool, validation images come from
    what training leaves, and all others are for testing.

    Args:
        shots: training images a class; ``None`` keeps a data set with splits as it is.
        strict: a class with fewer images is an error; otherwise all of its images are taken.

    Raises:
        UserError: a class has fewer images than ``shots`` (pool or ``strict``); a pool without shots.
    """
    if shots is not None and shots < 1:
        raise UserError(f"shots {shots}: give 1 or more images a class")
    pool = not dataset.val and not dataset.test
    if shots is None:
        if pool:
            raise UserError(f"'{dataset.name}' is not split into training and test images: give --shots")
        return dataset
    val_shots = min(shots, MAX_VAL_SHOTS)
    if pool or strict:
        _check_counts(dataset, shots)
    rng = random.Random(seed)
    train = sample(dataset.train, shots, rng)
    if not pool:
        return replace(dataset, train=train, val=sample(dataset.val, val_shots, rng))
    rest = _without(dataset.train, train)
    val = sample(rest, val_shots, rng)
    test = _without(rest, val)
    if none_left := len(dataset.classnames) - len(by_label(test)):
        log.warning(
            "%d of %d classes of '%s' have no image left for testing after %d shots and up to %d images for "
            "validation: give fewer --shots, or more images",
            none_left, len(dataset.classnames), dataset.name, shots, val_shots,
        )  # fmt: skip
    return replace(dataset, train=train, val=val, test=test)


def sample(items: Sequence[Item], shots: int, rng: random.Random) -> list[Item]:
    """``shots`` items of each label, labels in the order of first appearance; all where there are fewer."""
    chosen: list[Item] = []
    for members in by_label(items).values():
        chosen += rng.sample(members, shots) if len(members) >= shots else members
    return chosen


def by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Items of each label, labels in the order of first appearance."""
    members: dict[int, list[Item]] = {}
    for item in items:
        members.setdefault(item.label, []).append(item)
    return members


def subsample(dataset: Dataset, which: Literal["all", "base", "new"]) -> Dataset:
    """All classes, the first half of them (base, rounded up), or the rest (new); labels start from 0."""
    if which == "all":
        return dataset
    count = len(dataset.classnames)
    half = ceil(count / 2)
    return of_classes(dataset, range(half) if which == "base" else range(half, count))


def of_classes(dataset: Dataset, kept: Sequence[int]) -> Dataset:
    """Some of the classes, by their labels; labels start from 0 in this order."""
    places = {label: place for place, label in enumerate(kept)}

    def select(items: Sequence[Item]) -> list[Item]:
        return [item._replace(label=places[item.label]) for item in items if item.label in places]

    return replace(
        dataset,
        classnames=tuple(dataset.classnames[k] for k in kept),
        train=select(dataset.train),
        val=select(dataset.val),
        test=select(dataset.test),
    )


def _check_counts(dataset: Dataset, shots: int) -> None:
    members = by_label(dataset.train)
    for label, name in enumerate(dataset.classnames):
        found = len(members.get(label, ()))
        if found < shots:
            raise UserError(
                f"class '{name}' of '{dataset.name}' has {found} training images, {shots} shots are asked "
                f"for: give --shots {max(found, 1)} or more images"
            )


def _without(items: Sequence[Item], taken: Sequence[Item]) -> list[Item]:
    """Items that were not taken, by identity."""
    gone = {id(item) for item in taken}
    return [item for item in items if id(item) not in gone]
