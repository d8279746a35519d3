"""Figures of results, with matplotlib's object interface; each function gives a Figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from vlprompt.reports.stats import mean_std, number
from vlprompt.reports.svg import INK, LIGHT, LINE, PALETTE, PAPER, SOFT

WIDTH = 9.5
"""Inches; a page shows a figure about 950 pixels wide, so that 10 points become 14 pixels."""

History = Sequence[Mapping[str, Any]]
"""One record an epoch, as the training loop writes them: stage, loss and more."""
Weights = Sequence[Sequence[float]]
"""softmax(alpha) of each layer and context length, (L, C+1)."""
QUANTITIES = {"loss": "loss", "val_accuracy": "validation accuracy (%)"}
"""What learning curves show: its key in a history, and its words."""


def accuracy_bars(
    values: Mapping[str, Sequence[float]], colors: Mapping[str, str], chance: float | None
) -> Figure:
    """Mean accuracy of every method, its deviation, and a dot for every seed.

    Args:
        values: accuracy of each seed, in percent, by method.
        chance: accuracy of guessing, where it is known.
    """
    figure = Figure(figsize=(WIDTH, 0.75 + 0.48 * len(values)), layout="constrained")
    axes = figure.subplots()
    for row, (title, seeds) in enumerate(values.items()):
        mean, deviation = mean_std(seeds)
        axes.barh(row, mean, height=0.62, color=colors[title])
        if len(seeds) > 1:
            axes.errorbar(mean, row, xerr=deviation, fmt="none", color=INK, elinewidth=1.3, capsize=4)
            axes.plot(seeds, [row] * len(seeds), "o", ms=5, mfc=PAPER, mec=INK, mew=1, zorder=3)
        end = max(mean + deviation, *seeds) + 1.5
        axes.text(end, row, f"{number(seeds, 1)} %", va="center", color=INK, fontsize=10)
    if chance is not None:
        axes.axvline(chance, color=INK, lw=1.2, ls=(0, (4, 3)))
        axes.text(chance, -0.5, "chance", color=SOFT, fontsize=9, ha="center", va="bottom")
    axes.set(xlim=(0, 114), ylim=(len(values) - 0.5, -0.5), xlabel="accuracy (%)")
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(range(len(values)), list(values))
    quiet(axes)
    axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=INK)
    axes.xaxis.grid(True, color=LINE, lw=0.8)
    return figure


def learning_curves(
    histories: Mapping[str, Sequence[History]], colors: Mapping[str, str], quantity: str = "loss"
) -> Figure:
    """A quantity after every epoch, stage after stage: a panel a method, a line a seed.

    Args:
        histories: the history of each seed, by method.
        quantity: ``loss`` or ``val_accuracy``; epochs without it are passed over.
    """
    columns = min(len(histories), 3)
    rows = -(-len(histories) // columns)
    figure = Figure(figsize=(WIDTH, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, seeds) in zip(panels, histories.items(), strict=False):
        for history in seeds:
            _line(axes, history, quantity, colors[title])
        _mark_stages(axes, seeds[0])
        axes.set_title(title, fontsize=10, color=INK, loc="left", fontweight="bold", pad=18)
        axes.set(xlabel="epoch", ylabel=QUANTITIES[quantity])
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        quiet(axes)
        axes.yaxis.grid(True, color=LINE, lw=0.8)
    for axes in panels[len(histories) :]:
        axes.remove()
    return figure


def _line(axes: Axes, history: History, quantity: str, color: str) -> None:
    """One seed; the line is broken between stages, as each starts with fresh prompts."""
    numbered = enumerate(history, 1)
    for _, records in groupby(numbered, key=lambda one: one[1]["stage"]):
        points = [(epoch, record[quantity]) for epoch, record in records if quantity in record]
        dots = len(points) == 1 or quantity != "loss"
        axes.plot(*zip(*points, strict=True), color=color, lw=1.6, marker="o" if dots else "", ms=4)


def _mark_stages(axes: Axes, history: History) -> None:
    """Name the stages above the panel and divide them, where there are several."""
    stages = [(name, len(list(records))) for name, records in groupby(history, key=lambda r: r["stage"])]
    if len(stages) < 2:
        return
    above = axes.get_xaxis_transform()
    start = 0
    for name, epochs in stages:
        axes.text(
            start + epochs / 2 + 0.5,
            1.02,
            name,
            transform=above,
            ha="center",
            fontsize=9,
            color=SOFT,
        )
        start += epochs
        if start < len(history):
            axes.axvline(start + 0.5, color=SOFT, lw=1, ls=(0, (2, 2)))


def few_shot_curves(panels: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]) -> Figure:
    """Accuracy against the number of shots, a panel a data set; bands are standard deviations.

    Args:
        panels: accuracy of each seed, by panel, method and shots.
    """
    rows = -(-len(panels) // 4)
    columns = -(-len(panels) // rows)
    titles = dict.fromkeys(title for curves in panels.values() for title in curves)
    named = _legend_columns(list(titles))
    figure = Figure(figsize=(WIDTH, 0.3 + 0.2 * -(-len(titles) // named) + 2.3 * rows), layout="constrained")
    axes_of = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    shots = sorted({n for curves in panels.values() for curve in curves.values() for n in curve})
    for axes, (panel, curves) in zip(axes_of, panels.items(), strict=False):
        for style, title in zip(_line_styles(), titles, strict=False):
            if title in curves:
                _shots_line(axes, curves[title], style)
        axes.set_title(panel, fontsize=10, color=INK, loc="left", fontweight="bold")
        axes.set_xscale("log", base=2)
        axes.set_xticks(shots, list(map(str, shots)))
        axes.xaxis.set_tick_params(labelbottom=True)
        quiet(axes)
        axes.yaxis.grid(True, color=LINE, lw=0.8)
    for axes in axes_of[len(panels) :]:
        axes.remove()
    lines = [Line2D([], [], lw=1.8, ms=5, **style) for style, _ in zip(_line_styles(), titles, strict=False)]
    where: Any = {"loc": "outside upper left", "ncols": named}
    figure.legend(lines, list(titles), frameon=False, labelcolor=INK, **where)
    figure.supxlabel("training images a class (shots)", fontsize=10, color=SOFT)
    figure.supylabel("accuracy (%)", fontsize=10, color=SOFT)
    return figure


def _legend_columns(titles: Sequence[str]) -> int:
    """The most columns, at most five, in which titles stand within the width: some 125 characters."""
    for columns in range(min(len(titles), 5), 1, -1):
        rows = -(-len(titles) // columns)
        widest = [max(map(len, titles[at : at + rows])) + 9 for at in range(0, len(titles), rows)]
        if sum(widest) <= 125:
            return columns
    return 1


def _line_styles() -> Iterator[dict[str, Any]]:
    """Colour, marker and dashes of one method after the other, without end.

    When colours come again the dashes change, and when these do, each colour has its next marker.
    """
    markers = "os^DvPX"
    for turn in count():
        for dashes in ("-", (0, (4, 2)), (0, (1, 1.5))):
            for place, color in enumerate(PALETTE):
                yield {"color": color, "marker": markers[(place + turn) % len(markers)], "ls": dashes}


def _shots_line(axes: Axes, curve: Mapping[int, Sequence[float]], style: Mapping[str, Any]) -> None:
    """One method in one panel."""
    shots = sorted(curve)
    means, deviations = np.array([mean_std(curve[n]) for n in shots]).T
    axes.plot(shots, means, lw=1.8, ms=5, **style)
    axes.fill_between(shots, means - deviations, means + deviations, color=style["color"], alpha=0.15, lw=0)


def alpha_heatmaps(alphas: Mapping[str, Weights], chosen: Mapping[str, Sequence[int]]) -> Figure:
    """softmax(alpha) of every layer and length, a map for each branch; the chosen lengths are framed."""
    layers = max(map(len, alphas.values()))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * layers), layout="constrained")
    panels = figure.subplots(1, len(alphas), squeeze=False)[0]
    for axes, (branch, weights) in zip(panels, alphas.items(), strict=True):
        matrix = np.array(weights)  # (L, C+1)
        for (layer, length), weight in np.ndenumerate(matrix):
            _heat_cell(axes, layer, length, weight, chosen=length == chosen[branch][layer])
        axes.set_title(f"{branch} branch", fontsize=10, color=INK, loc="left", fontweight="bold")
        axes.set(xlim=(-0.55, matrix.shape[1] - 0.45), ylim=(len(matrix) - 0.45, -0.55))
        axes.set(xlabel="context length", ylabel="layer")
        axes.set_xticks(range(matrix.shape[1]))
        axes.set_yticks(range(len(matrix)), [str(n + 1) for n in range(len(matrix))])
        quiet(axes)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _heat_cell(axes: Axes, layer: int, length: int, weight: float, chosen: bool) -> None:
    """One weight. The shade lets the page through, and never gets so dark that ink is lost on it."""
    corner = (length - 0.5, layer - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=LIGHT["blue"], alpha=0.04 + 0.7 * weight, lw=0))
    if chosen:
        frame = Rectangle((length - 0.46, layer - 0.44), 0.92, 0.88, fill=False, ec=LIGHT["orange"], lw=2)
        axes.add_patch(frame)
    bold = "bold" if chosen else "normal"
    axes.text(
        length, layer, f"{weight:.2f}", ha="center", va="center", fontsize=9, color=INK, fontweight=bold
    )


def alpha_evolution(alphas: Sequence[Mapping[str, Weights]]) -> Figure:
    """How softmax(alpha) moved over the epochs of the search, a panel a layer.

    The heaviest length is thick and the runner-up thin, both with their length at the line's end; all
    others are grey.
    """
    branches = {branch: np.array([epoch[branch] for epoch in alphas]) for branch in alphas[0]}  # (N, L, C+1)
    layers = max(weights.shape[1] for weights in branches.values())
    columns = layers if layers <= 6 else -(-layers // 2) if layers <= 14 else 6
    rows_each = -(-layers // columns)
    rows = rows_each * len(branches)
    figure = Figure(figsize=(WIDTH, 0.4 + 1.45 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for index, (branch, weights) in enumerate(branches.items()):
        own = panels[index * rows_each : (index + 1) * rows_each].ravel()
        for layer, axes in enumerate(own):
            if layer >= weights.shape[1]:
                axes.set_visible(False)
                continue
            _weights_over_epochs(axes, weights[:, layer])
            axes.set_title(f"{branch} {layer + 1}", fontsize=9, color=INK, loc="left")
    top = max(float(weights.max()) for weights in branches.values())
    panels[0, 0].set(ylim=(0, 1 if top > 0.5 else 0.5), yticks=(0, 0.5, 1) if top > 0.5 else (0, 0.25, 0.5))
    figure.supxlabel("epoch of the search", fontsize=10, color=SOFT)
    figure.supylabel("weight", fontsize=10, color=SOFT)
    return figure


def _weights_over_epochs(axes: Axes, weights: np.ndarray) -> None:
    """One layer: (N, C+1)."""
    epochs = np.arange(1, len(weights) + 1)
    ranking = np.argsort(-weights[-1], kind="stable")
    marker = "o" if len(weights) == 1 else ""
    for length in ranking[:1:-1]:
        axes.plot(epochs, weights[:, length], color=SOFT, lw=0.8, alpha=0.6, marker=marker, ms=2)
    best = weights[-1, ranking[0]]
    # The second's label stands at least 0.16 below the first's, so that neither hides the other.
    styles = (("blue", 2.6, best), ("orange", 1.2, best - 0.16))
    for length, (color, width, highest) in reversed(list(zip(ranking, styles, strict=False))):
        axes.plot(epochs, weights[:, length], color=LIGHT[color], lw=width, marker=marker, ms=2 * width)
        axes.annotate(
            str(length), (epochs[-1], min(weights[-1, length], highest)), (5, 0),
            textcoords="offset points", va="center", color=LIGHT[color], fontsize=9, fontweight="bold",
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10]))
    quiet(axes)


def quiet(axes: Axes) -> None:
    """Few lines, and colours that the page knows."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=SOFT, labelsize=9)
    axes.xaxis.label.set(color=SOFT, fontsize=10)
    axes.yaxis.label.set(color=SOFT, fontsize=10)
    axes.set_axisbelow(True)
