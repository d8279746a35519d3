"""The pictures of the README: there, small, in words too, and readable wherever the page is opened."""

import html
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from browser import LOOKS, misplaced, new_page, open_browser  # noqa: F401

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = {name: alt for alt, name in re.findall(r"!\[([^\]]*)\]\((docs/pictures/[^)]+)\)", TEXT)}
STYLE = """<meta name=viewport content="width=device-width"><style>:root {color-scheme: light dark}
body {font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem}
img {max-width: 100%} pre, table {display: block; overflow-x: auto} code {overflow-wrap: anywhere}</style>"""
"""As the pages of code hosts have it."""


def test_every_picture_is_shown_small_and_in_words() -> None:
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "pictures").iterdir()}
    assert there == set(SHOWN) and len(there) == 4
    for name, alt in SHOWN.items():
        assert (ROOT / name).stat().st_size < 150_000, name
        assert len(alt) > 40, name
        if name.endswith(".svg"):  # the words are those of the file, so the numbers are, too
            svg = (ROOT / name).read_text(encoding="utf-8")
            title, words = (re.search(f"<{tag}[^>]*>([^<]*)", svg)[1] for tag in ("title", "desc"))
            assert html.unescape(f"{title}: {words}") == alt


def test_readme_in_a_browser(page: Page, tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown")
    body = markdown.markdown(TEXT, extensions=["tables", "fenced_code"])
    file = tmp_path / "readme.html"
    file.write_text(STYLE + body.replace('src="docs/', f'src="{(ROOT / "docs").as_uri()}/'), encoding="utf-8")
    for width, scheme in LOOKS:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(file.as_uri())
        assert misplaced(page) == [], (width, scheme)


@pytest.mark.parametrize("name", [name for name in SHOWN if name.endswith(".svg")])
def test_drawings_are_whole(page: Page, name: str) -> None:
    """The parts of a drawing are seen when it is opened alone."""
    papers = {}
    for width, scheme in LOOKS:
        page.set_viewport_size({"width": width, "height": 600})
        page.emulate_media(color_scheme=scheme)
        page.set_content((ROOT / name).read_text(encoding="utf-8"))
        assert misplaced(page) == [], (width, scheme)
        papers[scheme] = page.evaluate("getComputedStyle(document.querySelector('rect')).fill")
    assert papers["light"] != papers["dark"]
