"""What reports are made of: one HTML page that needs no other file, on paper, light and dark screens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

from vlprompt.files import MARK, write_text
from vlprompt.reports.svg import DARK, LIGHT, color_variables


class Html(str):
    """Text that is HTML already; tables show it as it is."""

    __slots__ = ()


def write_page(path: Path, title: str, lead: str, sections: Iterable[str]) -> None:
    """Write a page; the file appears whole or not at all.

    Args:
        lead: HTML of the paragraph below the title.
        sections: of :func:`section`; empty ones are left out.

    Raises:
        UserError: the place cannot be written, or is full.
    """
    body = "\n".join(filter(None, sections))
    fixed = {"mark": MARK, "style": STYLE, "version": version("vlprompt")}
    page = PAGE.format(title=escape(title), lead=lead, body=body, **fixed)
    write_text(path, page)


def section(heading: str, *parts: str) -> str:
    """A part of the page with a heading, which is plain text."""
    return "\n".join(["<section>", f"<h2>{escape(heading)}</h2>", *filter(None, parts), "</section>"])


def subsection(heading: str) -> str:
    """A heading, plain text, inside a section."""
    return f"<h3>{escape(heading)}</h3>"


def blocks(parts: Iterable[str]) -> str:
    """Small tables side by side, as many as there is room for."""
    inside = "\n".join(parts)
    return f'<div class="blocks">{inside}</div>' if inside else ""


def figure(svg: str, caption: str) -> str:
    """A figure with its caption, which is plain text."""
    return f"<figure>{_wide(svg)}<figcaption>{escape(caption)}</figcaption></figure>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of plain texts or :class:`Html`, the first column as the rows' headers."""
    top = "".join(f'<th scope="col">{_cell(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td{_prose(cell)}>{_cell(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    caption = f"<caption>{escape(caption)}</caption>" if caption else ""
    dense = ' class="dense"' if len(head) > 8 else ""
    return _wide(f"<table{dense}>{caption}<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table>")


def _prose(cell: str) -> str:
    """The class of a cell that is read as text and not compared as a number: it may break."""
    return ' class="prose"' if not isinstance(cell, Html) and len(cell) > 40 else ""


def details(summary: str, inside: str) -> str:
    """HTML that is shown when its summary, plain text, is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def paragraph(text: str) -> str:
    """A paragraph of plain text; nothing for no text."""
    return f"<p>{escape(text)}</p>" if text else ""


def code(text: str) -> str:
    """Commands or other text to copy."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def _wide(inside: str) -> str:
    """What scrolls sideways on narrow screens, with the keyboard too."""
    return f'<div class="wide" tabindex="0">{inside}</div>'


def _cell(text: str) -> str:
    return text if isinstance(text, Html) else escape(text)


STYLE = (
    f"""
:root {{ color-scheme: light dark; --bar: color-mix(in srgb, var(--blue) 30%, transparent);
  {color_variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ {color_variables(DARK)} }}
}}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); font-size: 1.25rem; }
h3 { margin: 2rem 0 .5rem; font-size: 1.05rem; }
.lead { margin: 0; font-size: 1.2rem; color: var(--soft); }
.lead strong { color: var(--ink); }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0; }
svg { display: block; width: 100%; height: auto; min-width: 42rem; }
svg text { font-family: system-ui, sans-serif !important; }
figcaption, caption { color: var(--soft); font-size: .875rem; text-align: left; }
figcaption { margin-top: .5rem; }
caption { padding-bottom: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
td.prose { text-align: left; white-space: normal; min-width: 20rem; }
thead th { background: var(--tint); font-weight: 600; vertical-align: bottom; white-space: normal; }
.dense, .blocks table { font-size: .8rem; }
.dense th, .dense td, .blocks th, .blocks td { padding: .35rem .3rem; }
.dense thead th { font-size: .7rem; }
.blocks { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr));
  gap: 1.5rem 2rem; margin: 1.5rem 0; }
td small { font-size: .75rem; color: var(--soft); }
.meter { display: inline-block; min-width: 8rem; border-radius: .2rem; background-repeat: no-repeat;
  background-image: linear-gradient(var(--bar), var(--bar));
  background-size: calc((100% - 3.2rem) * var(--part)) 100%; }
.thumbnails { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1.25rem 1rem;
  margin: 1rem 0; padding: 0; list-style: none; font-size: .8rem; line-height: 1.35; }
.thumbnails li { min-width: 0; overflow-wrap: anywhere; break-inside: avoid; }
.thumbnails img { display: block; width: 7rem; height: 7rem; margin-bottom: .35rem; object-fit: contain;
  object-position: left bottom; }
.thumbnails .tiny { image-rendering: pixelated; }
.thumbnails strong, .thumbnails small { display: block; }
.thumbnails small { color: var(--soft); }
details { margin: 1rem 0; }
summary { cursor: pointer; }
pre { padding: .75rem 1rem; overflow-x: auto; background: var(--tint); border-radius: .4rem; }
code { font: .875rem/1.5 ui-monospace, monospace; }
footer { margin-top: 3rem; color: var(--soft); font-size: .875rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  svg { min-width: 0; }
  pre { white-space: pre-wrap; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{mark}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
</header>
<main>
{body}
</main>
<footer>vlprompt {version}</footer>
</body>
</html>
"""
