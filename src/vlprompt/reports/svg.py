"""Figures as SVG inside a page, in the page's colours.

A figure's colours are written into its SVG as CSS variables, so that it follows the light or dark
colours of the page around it (:func:`color_variables`); outside such a page it has the light ones.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

LIGHT = {
    "paper": "#ffffff", "ink": "#1c2126", "soft": "#58616b", "line": "#d5dae0", "tint": "#f4f6f8",
    "blue": "#0f66b1", "orange": "#d46d09", "green": "#338c5a", "purple": "#8e4b7e",
    "brown": "#944f00", "sky": "#29a0c5", "black": "#454243",
}  # fmt: skip
DARK = {
    "paper": "#14181c", "ink": "#e6e9ec", "soft": "#a3adb7", "line": "#39414a", "tint": "#1e242a",
    "blue": "#0e7ece", "orange": "#d77000", "green": "#6cbc88", "purple": "#c67eab",
    "brown": "#eec967", "sky": "#4fd1fc", "black": "#e8e5e6",
}  # fmt: skip
"""The same names on dark pages."""
PALETTE = tuple(LIGHT[name] for name in ("blue", "orange", "green", "purple", "sky", "brown", "black"))
"""Colours of methods: contrast 3 or more to the page, told apart by the colour-blind (tested both)."""
INK, SOFT, LINE, PAPER = LIGHT["ink"], LIGHT["soft"], LIGHT["line"], LIGHT["paper"]


def color_variables(colors: Mapping[str, str]) -> str:
    """CSS declarations of :data:`LIGHT` or :data:`DARK` for the root of a page with figures."""
    return " ".join(f"--{name}: {value};" for name, value in colors.items())


def method_colors(titles: Iterable[str]) -> dict[str, str]:
    """A colour for each method, in turn."""
    return {title: PALETTE[index % len(PALETTE)] for index, title in enumerate(titles)}


def inline_svg(figure: Figure, identity: str, alt: str) -> str:
    """A figure as an SVG element to stand inside a page; text stays text.

    Args:
        identity: starts every id inside, so that several figures can stand in one page.
        alt: ``title: what there is to see``, for those who do not see it.
    """
    for artist in figure.findobj(Text):
        artist.set_parse_math(False)  # type: ignore[attr-defined]  # names are no formulas
    buffer = io.StringIO()
    no_metadata: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # matplotlib's style sheet would hold for the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{identity}-", text)
    for name, color in LIGHT.items():
        text = text.replace(f": {color}", f": var(--{name}, {color})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    title, _, description = alt.partition(": ")
    head = (
        f'<svg {box[0]} stroke-linejoin="round" role="img" '
        f'aria-labelledby="{identity}-title {identity}-desc" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">\n'
        f'<title id="{identity}-title">{escape(title)}</title>'
        f'<desc id="{identity}-desc">{escape(description)}</desc>'
    )
    return head + text[text.index(">") + 1 :]
