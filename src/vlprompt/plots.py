"""Figures of results, with matplotlib's object interface; each function gives a Figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#F0E442")
"""Okabe and Ito's colours, told apart by everyone."""
INK = "#57606a"


def svg(figure: Figure) -> str:
    """A figure as an SVG element to stand inside a page; text stays text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vlprompt"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def accuracy_bars(values: Mapping[str, Sequence[float]], chance: float | None) -> Figure:
    """Mean accuracy of every method, its deviation, and a dot for every seed."""
    figure = Figure(figsize=(7, 0.6 + 0.5 * len(values)), layout="constrained")
    axes = figure.subplots()
    for row, (name, seeds) in enumerate(values.items()):
        mean = float(np.mean(seeds))
        deviation = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
        axes.barh(row, mean, height=0.62, color=PALETTE[row % len(PALETTE)], xerr=deviation, ecolor=INK)
        if len(seeds) > 1:
            axes.plot(seeds, [row] * len(seeds), "o", ms=4, mfc="white", mec=INK)
        label = f"{mean:.1f}%" + (f" ± {deviation:.1f}" if deviation is not None else "")
        axes.text(mean + (deviation or 0) + 1.2, row, label, va="center", color=INK)
        axes.text(-1, row, name, va="center", ha="right", color=INK)
    if chance is not None:
        axes.axvline(chance, color=INK, lw=1, ls=":")
        axes.text(chance, -0.62, "chance", color=INK, fontsize=8, ha="center", va="bottom")
    axes.set(xlim=(0, 112), ylim=(len(values) - 0.5, -0.7), yticks=[], xlabel="test accuracy (%)")
    return _quiet(figure)


def learning_curves(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Loss against epoch, one panel a stage of a method."""
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for index, (axes, (name, losses)) in enumerate(zip(panels, curves.items(), strict=False)):
        axes.plot(range(1, len(losses) + 1), losses, color=PALETTE[index % len(PALETTE)])
        axes.set_title(name, fontsize=10, color=INK)
        axes.set(xlabel="epoch", ylabel="loss")
    for axes in panels[len(curves) :]:
        axes.remove()
    return _quiet(figure)


def alpha_maps(alphas: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """softmax(alpha) of every layer and length, a map for each branch; the chosen lengths are framed."""
    figure = Figure(
        figsize=(4.6 * len(alphas), 1.1 + 0.42 * max(map(len, alphas.values()))), layout="constrained"
    )
    for axes, (branch, weights) in zip(
        figure.subplots(1, len(alphas), squeeze=False)[0], alphas.items(), strict=True
    ):
        matrix = np.array(weights)  # (L, C+1)
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for layer, row in enumerate(matrix):
            for length, weight in enumerate(row):
                axes.text(
                    length, layer, f"{weight:.2f}", ha="center", va="center", fontsize=8,
                    color="white" if weight > 0.5 else "#24292f",
                )  # fmt: skip
            axes.add_patch(
                mpl.patches.Rectangle(
                    (int(row.argmax()) - 0.5, layer - 0.5), 1, 1, fill=False, ec=PALETTE[1], lw=2
                )
            )
        axes.set_title(f"{branch} branch", fontsize=10, color=INK)
        axes.set(
            xlabel="context length", ylabel="layer", yticks=range(len(matrix)), xticks=range(matrix.shape[1])
        )
        axes.set_yticklabels([str(i + 1) for i in range(len(matrix))])
    return _quiet(figure)


def alpha_evolution(history: Sequence[Mapping[str, Sequence[Sequence[float]]]]) -> Figure:
    """How softmax(alpha) moved with the epochs: a panel a layer, a line a length, a row a branch."""
    branches = {
        branch: np.array([epoch[branch] for epoch in history]) for branch in history[0]
    }  # (N, L, C+1)
    layers = max(a.shape[1] for a in branches.values())
    figure = Figure(figsize=(max(1.55 * layers, 5), 3.6), layout="constrained")
    panels = figure.subplots(len(branches), layers, sharex=True, sharey=True, squeeze=False)
    for row, (branch, values) in enumerate(branches.items()):
        for layer in range(layers):
            axes = panels[row][layer]
            if layer >= values.shape[1]:
                axes.set_visible(False)
                continue
            for length in range(values.shape[2]):
                colour = mpl.colormaps["viridis"](length / max(values.shape[2] - 1, 1))
                axes.plot(values[:, layer, length], color=colour, lw=1.3, label=str(length))
            axes.set_ylim(0, 1)
            axes.set_title(f"{branch} {layer + 1}", fontsize=9, color=INK)
    figure.supxlabel("epoch of the search", fontsize=9, color=INK)
    handles, labels = max((p.get_legend_handles_labels() for p in panels.ravel()), key=lambda hl: len(hl[1]))
    figure.legend(handles, labels, title="length", loc="outside right center", frameon=False, labelcolor=INK)
    return _quiet(figure)


def _quiet(figure: Figure) -> Figure:
    """Colours that can be read on light and dark pages, and few lines."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(colors=INK, labelsize=8)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.set_facecolor("none")
    return figure
