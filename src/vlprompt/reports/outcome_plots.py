"""Figures of predictions beside the truth; each function gives a Figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlprompt.metrics import Bins
from vlprompt.reports.plots import WIDTH, quiet
from vlprompt.reports.svg import INK, LIGHT, LINE, SOFT

LONGEST = 22
"""Letters of a class name in a figure."""


def confusion_matrix(counts: np.ndarray, classnames: Sequence[str]) -> Figure:
    """Number of images by true class (row) and predicted class (column), shaded by their share of the row.

    Args:
        counts: (K, K).
        classnames: K names.
    """
    size, names = len(counts), [short(name) for name in classnames]
    figure = Figure(figsize=(WIDTH, 1.5 + 0.34 * size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for (truth, guess), count in np.ndenumerate(counts):
        if count:
            # The shade lets the page through, and never gets so dark that ink is lost on it.
            color, alpha = LIGHT["blue" if truth == guess else "orange"], 0.08 + 0.6 * shares[truth, guess]
            axes.add_patch(Rectangle((guess - 0.5, truth - 0.5), 1, 1, facecolor=color, alpha=alpha, lw=0))
            axes.text(guess, truth, str(count), ha="center", va="center", fontsize=9, color=INK)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="truth")
    if max(map(len, names)) > 3:
        axes.set_xticks(range(size), names, rotation=35, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(size), names)
    axes.set_yticks(range(size), names)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(True, which="minor", color=LINE, lw=0.8)
    quiet(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, which="both")
    return figure


def reliability(bins: Bins) -> Figure:
    """A reliability diagram, and how many images have which confidence."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 100], [0, 100], color=SOFT, lw=1.2, ls=(0, (4, 3)))
    left.plot(100 * bins.confidence, 100 * bins.accuracy, "o-", color=LIGHT["blue"], lw=1.8, ms=5)
    left.set(xlim=(0, 102), ylim=(-2, 102), ylabel="accuracy (%)")
    _titled(left, "Accuracy beside confidence")
    right.bar(100 * bins.confidence, bins.images, width=5, color=LIGHT["blue"])
    right.set(xlim=(0, 102), ylabel="images")
    _titled(right, "Images by confidence")
    return figure


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left", fontweight="bold")
    axes.set_xlabel("confidence: probability of the prediction (%)")
    axes.set_xticks(range(0, 101, 20))
    quiet(axes)
    axes.yaxis.grid(True, color=LINE, lw=0.8)


def short(name: str) -> str:
    """A class name that fits beside a figure."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
