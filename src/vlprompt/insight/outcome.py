"""What a classifier got right and wrong on labelled images: counts, pairs, mistakes. Nothing is drawn here.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vlprompt.dataset import ImageSource
from vlprompt.metrics import Bins, calibration, measure


class ClassOutcome(NamedTuple):
    """One class.

    Args:
        images: number of images of the class.
        accuracy: percent of them that were recognised; the class's recall. None without images.
        precision: percent of the images put into the class that belong to it; None where none were.
        mistaken_for: the class that its images were most often mistaken for; empty where for none.
    """

    name: str
    images: int
    accuracy: float | None
    precision: float | None
    mistaken_for: str


class Pair(NamedTuple):
    """How many images of one class were taken for another."""

    truth: str
    prediction: str
    images: int
    share: float
    """in percent of the images of the true class"""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Predictions beside the truth.

    Args:
        probabilities: (N, K).
        labels: (N,) whole numbers below K.
        classnames: K names; equal ones stay separate classes.
        images: N, to be shown.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    classnames: tuple[str, ...]
    images: Sequence[ImageSource]

    @cached_property
    def predicted(self) -> np.ndarray:
        """The likeliest class (N,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability (N,) of the likeliest class."""
        return self.probabilities.max(1)

    @property
    def measured(self) -> dict[str, float]:
        """As :func:`vlprompt.metrics.measure` has it."""
        return measure(self.probabilities, self.labels)

    @property
    def calibration(self) -> Bins:
        """Confidence beside accuracy."""
        return calibration(self.probabilities, self.labels)

    @property
    def classes(self) -> list[ClassOutcome]:
        """Every class, in order."""
        count = len(self.classnames)
        right = self.labels[self.predicted == self.labels]
        counted = (self.labels, self.predicted, right)
        images, guesses, right = (np.bincount(of, minlength=count) for of in counted)
        mistaken: dict[int, int] = {}
        for truth, guess, _ in self._pairs():
            mistaken.setdefault(truth, guess)
        return [
            ClassOutcome(
                name,
                int(images[k]),
                100 * float(right[k] / images[k]) if images[k] else None,
                100 * float(right[k] / guesses[k]) if guesses[k] else None,
                self.classnames[mistaken[k]] if k in mistaken else "",
            )
            for k, name in enumerate(self.classnames)
        ]

    @cached_property
    def present(self) -> np.ndarray:
        """Positions (P,) of the classes that have images or predictions."""
        return np.union1d(self.labels, self.predicted)

    @property
    def confusion(self) -> np.ndarray:
        """Number of images (P, P) by true class and predicted class, of the classes that are present."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.predicted, labels=self.present)

    def pairs(self, most: int) -> list[Pair]:
        """The most frequent mistakes: a class, what it was taken for, and how often."""
        images = np.bincount(self.labels)
        return [
            Pair(self.classnames[truth], self.classnames[guess], count, 100 * count / int(images[truth]))
            for truth, guess, count in self._pairs()[:most]
        ]

    def _pairs(self) -> list[tuple[int, int, int]]:
        """Every kind of mistake, the most frequent first: true class, predicted class, number of images."""
        wrong = self.predicted != self.labels
        both = np.stack([self.labels[wrong], self.predicted[wrong]])  # (2, mistakes)
        kinds, counts = np.unique(both, axis=1, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*kinds[:, i].tolist(), int(counts[i])) for i in order]

    def mistakes(self, most: int) -> list[int]:
        """Positions of the wrong predictions, the most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:most].tolist()

    def doubtful(self, most: int) -> list[int]:
        """Positions of the images whose two likeliest classes are nearest to each other in probability."""
        two = np.partition(self.probabilities, -2, axis=1)[:, -2:]  # (N, 2)
        return np.argsort(two[:, 1] - two[:, 0], kind="stable")[:most].tolist()

    def likeliest(self, position: int, most: int) -> list[tuple[str, float]]:
        """Names and probabilities of an image's likeliest classes, the likeliest first."""
        p = self.probabilities[position]
        order = np.argsort(-p, kind="stable")[:most]
        return [(self.classnames[k], float(p[k])) for k in order]

    def name(self, position: int) -> str:
        """An image's path, or its number from 1 where it has none."""
        image = self.images[position]
        return str(image) if isinstance(image, str | Path) else f"image {position + 1}"

    @property
    def predictions(self) -> list[dict[str, str | float]]:
        """A row an image: path or number, true class, predicted class, probability of this prediction."""
        return [
            {
                "image": self.name(i),
                "truth": self.classnames[truth],
                "prediction": self.classnames[guess],
                "probability": float(sure),
            }
            for i, (truth, guess, sure) in enumerate(
                zip(self.labels, self.predicted, self.confidence, strict=True)
            )
        ]
