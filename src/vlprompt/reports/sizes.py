"""The curve of a search that chose its number of tokens: accuracy by size, and where the tokens are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlprompt.reports.page import figure
from vlprompt.reports.plots import WIDTH, quiet
from vlprompt.reports.svg import INK, LIGHT, LINE, SOFT, inline_svg

Point = Mapping[str, Any]
"""One size, as :func:`vlprompt.methods.dpl.path.measure` gives it."""


def curve_of(history: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Point], int]:
    """The sizes of a history and the number of the chosen one; no sizes where none were measured."""
    for record in history:
        if "path" in record:
            return record["path"], record["chosen"]
    return (), 0


def size_curve(index: int, points: Sequence[Point], chosen: int) -> str:
    """The curve and the lengths of every size, as HTML."""
    each = ", ".join(f"{p['tokens']} tokens {p['accuracy']:.0f} %" for p in points)
    svg = inline_svg(draw_sizes(points, chosen), f"sizes{index}", f"Accuracy by number of tokens: {each}")
    return figure(
        svg,
        "Accuracy on validation images by the number of context tokens, all with the prompts of the search, "
        "when the size was chosen; on the right, tokens of each layer, darker for more. Framed: the size "
        "that was chosen, the smallest whose loss is within one standard error of the best.",
    )


def draw_sizes(points: Sequence[Point], chosen: int) -> Figure:
    """Accuracy by tokens on the left, tokens of each layer on the right."""
    drawing = Figure(figsize=(WIDTH, 1.4 + 0.34 * len(points)), layout="constrained")
    left, right = drawing.subplots(1, 2, width_ratios=(1, 1.25))
    _accuracies(left, points, chosen)
    _layers(right, points, chosen)
    return drawing


def _accuracies(axes: Axes, points: Sequence[Point], chosen: int) -> None:
    tokens = [p["tokens"] for p in points]
    drawn = [p["random"] for p in points]
    axes.fill_between(tokens, [min(d) for d in drawn], [max(d) for d in drawn], color=SOFT, alpha=0.2, lw=0)
    lines = {
        "searched": ([p["accuracy"] for p in points], LIGHT["blue"], "o"),
        "even": ([np.mean(p["even"]) for p in points], LIGHT["orange"], "s"),
        "random": ([np.mean(d) for d in drawn], SOFT, "^"),
    }
    for name, (values, color, marker) in lines.items():
        axes.plot(tokens, values, color=color, marker=marker, ms=4.5, lw=1.6, label=name)
    axes.plot(tokens[chosen], points[chosen]["accuracy"], "o", ms=11, mfc="none", mec=LIGHT["orange"], mew=2)
    axes.set(xlabel="context tokens", ylabel="accuracy (%)")
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    quiet(axes)
    axes.yaxis.grid(True, color=LINE, lw=0.8)


def _layers(axes: Axes, points: Sequence[Point], chosen: int) -> None:
    counts = np.array([[*p["text"], *p["vision"]] for p in points])  # (S, L)
    text, small = len(points[0]["text"]), counts.shape[1] > 16
    for (row, layer), count in np.ndenumerate(counts):
        shade = 0.04 + 0.7 * count / max(counts.max(), 1)
        axes.add_patch(Rectangle((layer - 0.5, row - 0.5), 1, 1, facecolor=LIGHT["blue"], alpha=shade, lw=0))
        axes.text(layer, row, str(count), ha="center", va="center", fontsize=7 if small else 9, color=INK)
    if 0 < text < counts.shape[1]:
        axes.axvline(text - 0.5, color=INK, lw=1)
    frame = Rectangle((-0.46, chosen - 0.44), counts.shape[1] - 0.08, 0.88, fill=False, lw=2)
    frame.set_edgecolor(LIGHT["orange"])
    axes.add_patch(frame)
    axes.set(xlim=(-0.55, counts.shape[1] - 0.45), ylim=(-0.55, len(points) - 0.45), ylabel="tokens")
    axes.set_yticks(range(len(points)), [str(p["tokens"]) for p in points])
    vision = counts.shape[1] - text
    axes.set_xticks(range(counts.shape[1]), [*map(str, range(1, text + 1)), *map(str, range(1, vision + 1))])
    axes.set_xlabel("layer: text | vision" if text and vision else "layer")
    quiet(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7 if small else 9)
