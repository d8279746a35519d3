"""Accuracy, macro-F1 and expected calibration error, in percent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Bins(NamedTuple):
    """Images by the confidence of their prediction, in equal bins from 0 to 1; empty bins are left out.

    Args:
        confidence: (B,) mean of each bin.
        accuracy: (B,) share of right predictions in it.
        images: (B,) how many.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray


def measure(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of predictions.

    Args:
        probabilities: (N, K). labels: (N,) whole numbers below K.

    Returns:
        ``accuracy``, ``macro_f1`` and ``ece`` in percent, and the number of images ``n``.
    """
    from sklearn.metrics import f1_score

    predicted = probabilities.argmax(1)
    return {
        "accuracy": 100 * float((predicted == labels).mean()),
        "macro_f1": 100 * float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "ece": 100 * calibration_error(probabilities, labels),
        "n": len(labels),
    }


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Bins:
    """Confidence beside accuracy: what a reliability diagram shows (arXiv 1706.04599, section 2)."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    images = np.bincount(index, minlength=bins)
    held = images > 0
    sums = (np.bincount(index, of, bins)[held] for of in (confidence, correct))
    mean_confidence, accuracy = (each / images[held] for each in sums)
    return Bins(mean_confidence, accuracy, images[held])


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in ``bins`` equal bins of confidence (arXiv 1706.04599, eq. 3)."""
    confidence, accuracy, images = calibration(probabilities, labels, bins)
    return float((abs(accuracy - confidence) * images).sum() / len(labels))
