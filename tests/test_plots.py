"""Figures: what is drawn is what was measured, and it can be read by everyone, on every page."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from vlprompt.reports import plots
from vlprompt.reports.svg import DARK, LIGHT, PALETTE, inline_svg, method_colors

PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
TRITANOPIA = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
]
"""Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB."""
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.array(TO_XYZ) @ rgb.clip(1e-3, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(color: str, other: str) -> float:
    """WCAG's contrast ratio."""
    dark, light = sorted(float(linear(c) @ TO_XYZ[1]) for c in (color, other))
    return (light + 0.05) / (dark + 0.05)


METHOD_COLORS = [name for color in PALETTE for name, light in LIGHT.items() if light == color]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_colors_stand_out_from_the_page(scheme: dict[str, str]) -> None:
    assert min(contrast(scheme[name], scheme["paper"]) for name in METHOD_COLORS) >= 3
    assert min(contrast(scheme[name], scheme["paper"]) for name in ("ink", "soft")) >= 4.5


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    "eye", [np.eye(3), PROTANOPIA, DEUTERANOPIA, TRITANOPIA], ids=["normal", "protan", "deutan", "tritan"]
)
def test_colors_are_told_apart(scheme: dict[str, str], eye: np.ndarray) -> None:
    seen = [lab(np.array(eye) @ linear(scheme[name])) for name in METHOD_COLORS]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 13


def test_inline_svg_stands_beside_others() -> None:
    """Unique ids that all resolve, no style sheet for the whole page, text as text, a title and words."""
    figure = plots.accuracy_bars({"A $x$ & $y$": [70.0, 71.0]}, {"A $x$ & $y$": PALETTE[0]}, 10.0)
    one, two = (inline_svg(figure, name, "Accuracy: A <70>") for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, two), ids, strict=True):
        used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
        assert used
        assert used <= own
        assert "<style" not in svg
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        by_id = {element.get("id"): element.text for element in root.iter()}
        assert [by_id[i] for i in root.get("aria-labelledby", "").split()] == ["Accuracy", "A <70>"]
        texts = {"".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("}text")}
        assert {"A $x$ & $y$", "70.5 ± 0.7 %", "chance", "accuracy (%)"} <= texts


def test_svg_follows_the_page() -> None:
    """No colour is fixed: all are variables that the page sets, with the light ones for elsewhere."""
    figure = plots.accuracy_bars({"A": [70.0, 71.0]}, {"A": PALETTE[0]}, 10.0)
    svg = inline_svg(figure, "a", "a: b")
    assert f"var(--blue, {LIGHT['blue']})" in svg
    assert not re.findall(r": *#[0-9a-f]{6}", svg)


def test_accuracy_bars() -> None:
    colors = method_colors(["A", "B"])
    (axes,) = plots.accuracy_bars({"A": [60.0, 70.0], "B": [50.0]}, colors, None).axes
    assert [bar.get_width() for bar in axes.patches] == [65.0, 50.0]
    (whisker,) = [c for c in axes.collections if len(c.get_segments()) == 1]
    low, high = whisker.get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((65 - 50**0.5, 65 + 50**0.5))
    assert [*axes.lines[-1].get_xdata()] == [60.0, 70.0]


def history(*stages: tuple[str, list[float]]) -> list[dict[str, object]]:
    return [{"stage": stage, "loss": loss} for stage, losses in stages for loss in losses]


def test_learning_curves() -> None:
    """A line a seed and stage, one stage after the other, in one panel a method."""
    searched = history(("search", [3.0, 2.0]), ("train", [4.0, 1.0, 0.5]))
    curves = {"DPL": [searched, searched], "CoOp": [history(("train", [2.0]))]}
    dpl, coop = plots.learning_curves(curves, method_colors(curves)).axes
    assert [list(line.get_xdata()) for line in dpl.lines[:4]] == [[1, 2], [3, 4, 5]] * 2
    assert list(dpl.lines[1].get_ydata()) == [4.0, 1.0, 0.5]
    assert [text.get_text() for text in dpl.texts] == ["search", "train"]
    assert [list(line.get_ydata()) for line in coop.lines] == [[2.0]]


def test_alpha_heatmaps_frame_the_chosen() -> None:
    text, vision = [[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]], [[0.1, 0.1, 0.8]]
    chosen = {"text": (2, 0), "vision": (2,)}  # not always the heaviest
    panels = plots.alpha_heatmaps({"text": text, "vision": vision}, chosen).axes
    frames = [[p.get_center() for p in axes.patches if not p.get_fill()] for axes in panels]
    assert np.round(frames[0]).tolist() == [[2, 0], [0, 1]]  # length, layer
    assert np.round(frames[1]).tolist() == [[2, 0]]
    assert [t.get_text() for t in panels[0].texts] == ["0.20", "0.70", "0.10", "0.50", "0.20", "0.30"]


@pytest.mark.parametrize("layers", [1, 4, 12, 24])
def test_alpha_evolution_has_a_panel_a_layer(layers: int) -> None:
    epochs = [{"text": [[0.3, 0.6, 0.1]] * layers, "vision": [[0.1, 0.2, 0.7]]}] * 2
    figure = plots.alpha_evolution(epochs)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    titles = [axes.get_title(loc="left") for axes in shown]
    assert titles == [*(f"text {n + 1}" for n in range(layers)), "vision 1"]
    assert [t.get_text() for t in shown[-1].texts] == ["1", "2"]  # the runner-up and the chosen


def test_alpha_evolution_of_one_epoch_and_one_length() -> None:
    (axes,) = plots.alpha_evolution([{"text": [[1.0]]}]).axes
    assert [t.get_text() for t in axes.texts] == ["0"]


def test_few_shot_curves() -> None:
    panels = {
        "average of 2": {"A": {1: [50.0, 60.0], 4: [70.0, 70.0]}},
        "cats": {"A": {1: [50.0]}, "B": {4: [20.0]}},
    }
    average, cats = plots.few_shot_curves(panels).axes
    assert [list(line.get_ydata()) for line in average.lines] == [[55.0, 70.0]]
    assert [list(line.get_xdata()) for line in cats.lines] == [[1], [4]]
    assert average.lines[0].get_color() == cats.lines[0].get_color() != cats.lines[1].get_color()


def test_a_legend_of_long_names_stands_within_the_figure() -> None:
    names = [f"method {n}" + " (lr=0.003, teacher=out/teacher)" * (n % 7 == 0) for n in range(24)]
    figure = plots.few_shot_curves({"cats": {name: {1: [50.0], 2: [60.0]} for name in names}})
    FigureCanvasAgg(figure).draw()
    legend, (axes,) = figure.legends[0].get_window_extent(), figure.axes
    assert legend.x1 <= figure.bbox.x1 and legend.y1 <= figure.bbox.y1
    assert axes.get_window_extent().height > 120


def test_few_shot_curves_of_thirty_methods_look_different() -> None:
    panels = {"cats": {f"method {n}": {1: [50.0], 2: [60.0]} for n in range(30)}}
    figure = plots.few_shot_curves(panels)
    (axes,) = figure.axes
    # get_linestyle() says "--" for every pattern of dashes, the drawn pattern tells them apart.
    looks = {(x.get_color(), x.get_marker(), str(x._unscaled_dash_pattern)) for x in axes.lines}
    assert len(looks) == len(axes.lines) == len(figure.legends[0].get_texts()) == 30
