"""What objects show in a notebook, and the notebook of the examples as a kernel runs it."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import Page

from browser import LOOKS, misplaced, new_page, open_browser  # noqa: F401
from support import NAMES, photos_and_labels
from vlprompt import PromptClassifier
from vlprompt.methods.lengths import Lengths

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    """The notebook after a run in a fresh kernel; an error in a cell fails it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
    return NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=NOTEBOOK.parent)


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """What cells show of a kind, in order."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in shown if kind in output.get("data", {})]


def test_quickstart_draws_what_it_shows(executed: nbformat.NotebookNode, page: Page, tmp_path: Path) -> None:
    (pictures,) = outputs(executed, "image/png")
    assert len(set(Image.open(BytesIO(b64decode(pictures))).convert("L").getdata())) > 50
    pages = outputs(executed, "text/html")
    assert any("CoOp (coop)" in html and "accuracy (validation)" in html for html in pages)
    assert any("most often mistaken for" in html and html.count("<svg") == 2 for html in pages)
    assert any("data:image/" in html for html in pages)
    assert any("Context length of each layer" in html for html in pages)
    assert outputs(executed, "text/plain")[-1] in ("True", "np.True_")
    printed = [o for cell in executed.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    assert [o.text for o in printed if "Loading weights" not in o.text and o.text.strip()] == []
    shown = tmp_path / "shown.html"
    style = "<style>:root {color-scheme: light dark} body {font: 14px sans-serif}</style>"
    shown.write_text("<!DOCTYPE html><meta charset=utf-8>" + style + "<hr>".join(pages), encoding="utf-8")
    for width, scheme in LOOKS:
        page.set_viewport_size({"width": max(width, 1000), "height": 900})  # as wide as a notebook's cell
        page.emulate_media(color_scheme=scheme)
        page.goto(shown.as_uri())
        assert misplaced(page) == []
        cell = page.locator(".vlprompt-report td").first
        assert cell.evaluate("cell => getComputedStyle(cell).color") == "rgb(28, 33, 38)"  # on white


def test_committed_notebook_has_its_outputs() -> None:
    """Whoever looks at it on a web page sees what it draws."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    assert NOTEBOOK.stat().st_size < 400_000


def test_a_bar_moves_in_a_notebook() -> None:
    """Without ipywidgets."""
    code = """
import time
from vlprompt import progress
progress.EVERY = 0
for _ in progress.track("abc", "cutting", 3): pass
"""
    cells = [nbformat.v4.new_code_cell(code)]
    shown: list[str] = []

    def keep(msg: dict) -> None:
        shown.append(msg["content"].get("data", {}).get("text/html", ""))

    class Client(NotebookClient):
        def process_message(self, msg, cell, cell_index):
            keep(msg)
            return super().process_message(msg, cell, cell_index)

    Client(nbformat.v4.new_notebook(cells=cells), timeout=120, kernel_name="python3").execute()
    bars = [html for html in shown if "<progress" in html]
    assert [re.search(r'value="([\d.]+)"', html)[1] for html in bars][-3:] == ["1", "2", "3"]
    assert "cutting 3/3" in bars[-1] and shown[-2:] != bars[-2:], "it stays when the work is done"


def test_what_a_classifier_and_lengths_show(photos) -> None:
    assert "not trained yet" in PromptClassifier("coop")._repr_html_()
    paths, labels = photos_and_labels(photos)
    classifier = PromptClassifier("coop", settings={"epochs": 1}, augment="none").fit(paths, labels)
    classifier.measured_ = {"test": {"accuracy": 87.5, "n": 1234}}
    html = classifier._repr_mimebundle_()["text/html"]
    for words in ("CoOp (coop)", "toy", *NAMES, "87.5 % of 1,234 images"):
        assert words in html
    explanation = classifier.explain(paths[0])
    assert "data:image/" in explanation._repr_html_() and explanation.class_name in explanation._repr_html_()
    html = Lengths((0, 4), (2, 2, 6))._repr_html_()
    assert re.findall(r"<td[^>]*>(\d+)", html) == ["0", "4", "2", "2", "6"] and "14 tokens" in html
    shades = [float(a) for a in re.findall(r"([\d.]+)\)\"", html)]
    assert shades == sorted(shades, key=lambda a: [0.04, 0.44, 0.24, 0.24, 0.64].index(a))
