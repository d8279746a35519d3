"""Accuracy, macro-F1 and expected calibration error, in percent."""

from __future__ import annotations

import numpy as np


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


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in ``bins`` equal bins of confidence (arXiv 1706.04599, eq. 3)."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[index == b].mean() - confidence[index == b].mean()) * (index == b).mean()
        for b in range(bins)
        if (index == b).any()
    ]
    return float(sum(gaps))
