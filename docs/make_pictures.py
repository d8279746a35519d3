"""The pictures of the README and the outputs of the notebook: python docs/make_pictures.py DEMO_FOLDER

DEMO_FOLDER is what ``vlprompt demo --seeds 1 2 3`` wrote; ``make pictures`` does both.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import nbformat
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "pictures"
sys.path.insert(0, str(ROOT / "benchmarks"))

from serve_load import running  # noqa: E402

from vlprompt import PromptClassifier, data  # noqa: E402
from vlprompt.jobs.demo import DATA, ENTRIES  # noqa: E402
from vlprompt.reports.plots import accuracy_bars, quiet  # noqa: E402
from vlprompt.reports.stats import number  # noqa: E402
from vlprompt.reports.svg import DARK, INK, LIGHT, LINE, SOFT, color_variables, inline_svg, method_colors  # noqa: E402

SEEDS = (1, 2, 3)
WIDTH = 7.4
"""Inches of a figure: it can still be read on a narrow screen."""
PLACED = {"dpl": "searched", "dpl-even": "spread evenly", "dpl-random": "at random"}
"""Rows of the demo with equally many tokens, and where these stand."""
COLORS = f"""<style>
text {{ font-family: system-ui, sans-serif !important }}
svg {{ {color_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ svg {{ {color_variables(DARK)} }} }}</style>
<rect width="100%" height="100%" style="fill: var(--paper)"/>"""
"""A picture has its own paper, as it cannot know the page's."""
WIDE = {"width": 1200, "height": 900}
SLOW = 300_000
"""Milliseconds until something must be on a page."""


# The demo.


def recorded(demo: Path, name: str, file: str) -> list[dict]:
    """A JSON file of every seed of a row."""
    return [json.loads((demo / f"{name}-seed{seed}" / file).read_text()) for seed in SEEDS]


def accuracies(demo: Path) -> dict[str, list[float]]:
    """Test accuracy of every seed, by the demo's names."""
    return {
        name: [config["measured"]["test"]["accuracy"] for config in recorded(demo, name, "config.json")]
        for name in ENTRIES
    }


def draw_accuracy(demo: Path) -> None:
    """Bars of all rows."""
    values = {ENTRIES[name].title: seeds for name, seeds in accuracies(demo).items()}
    figure = accuracy_bars(values, method_colors(values), 10.0)
    figure.set_size_inches(WIDTH, 2.9)
    words = ", ".join(f"{title} {number(seeds, 1)} %" for title, seeds in values.items())
    write_svg("demo-accuracy", figure, f"Accuracy on real handwritten digits: {words}")


def draw_lengths(demo: Path) -> None:
    """Where the tokens stand, and what that gives: a panel a placement, a bar a layer, a dot a seed."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    panels = figure.subplots(1, len(PLACED), sharey=True)
    found, words = accuracies(demo), []
    for axes, (name, where) in zip(panels, PLACED.items(), strict=True):
        seeds = [[*one["text"], *one["vision"]] for one in recorded(demo, name, "lengths.json")]
        half = len(recorded(demo, name, "lengths.json")[0]["text"])
        places = [i + (i >= half) for i in range(len(seeds[0]))]
        means = [fmean(column) for column in zip(*seeds, strict=True)]
        colors = [LIGHT["blue"]] * half + [LIGHT["orange"]] * (len(means) - half)
        axes.bar(places, means, color=colors, width=0.8)
        for lengths in seeds:
            axes.plot(places, lengths, "o", ms=3.5, mfc=LIGHT["paper"], mec=INK, mew=0.8, clip_on=False)
        result = f"{where}: {number(found[name], 1)} %"
        axes.set_title(result, fontsize=9.5, color=INK, loc="left", fontweight="bold")
        axes.set_xticks(places, [str(1 + i % half) for i in range(len(means))])
        for place, branch in ((fmean(places[:half]), "text layers"), (fmean(places[half:]), "vision layers")):
            where_below = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            axes.annotate(branch, (place, 0), (0, -24), ha="center", va="top", color=SOFT, **where_below)
        quiet(axes)
        axes.yaxis.grid(True, color=LINE, lw=0.8)
        words.append(result)
    panels[0].set_ylabel("tokens")
    first = recorded(demo, "dpl", "lengths.json")[0]
    total = sum([*first["text"], *first["vision"]])
    write_svg("demo-lengths", figure, f"{total} tokens in eight layers: {', '.join(words)}")


def write_svg(name: str, figure: Figure, alt: str) -> None:
    """A figure as a file that stands alone, and its words in the README."""
    svg = inline_svg(figure, name, alt)
    end = svg.index(">") + 1
    (OUT / f"{name}.svg").write_text(svg[:end] + COLORS + svg[end:], encoding="utf-8")
    readme = ROOT / "README.md"
    text = re.sub(rf"!\[[^\]]*\]\((?=docs/pictures/{name})", f"![{alt}](", readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")


# Pages.


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of a headless Chromium, light."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser.new_page(viewport=WIDE, color_scheme="light")
        browser.close()


def write_png(name: str, shot: bytes) -> None:
    """A screenshot of 256 colours."""
    image = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(OUT / f"{name}.png", optimize=True)


def shoot_report(demo: Path, page: Page) -> None:
    """What is mistaken for what, and the most confident mistakes, of CoOp's first seed."""
    dataset = data.few_shot(data.load(DATA), 16, SEEDS[0], strict=True)
    classifier = PromptClassifier.load(demo / f"coop-seed{SEEDS[0]}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        classifier.report_on(dataset.test).save(path, dataset=DATA)
        page.goto(path.as_uri())
        first, last = (
            page.locator("section", has=page.get_by_role("heading", name=name)).bounding_box()
            for name in ("What is mistaken for what", "Most confident mistakes")
        )
        assert first is not None and last is not None
        top, bottom = first["y"] + 2, last["y"] + last["height"] + 10
        clip = {"x": first["x"] - 20, "y": top, "width": first["width"] + 40, "height": bottom - top}
        write_png("report", page.screenshot(clip=clip, full_page=True))


def drawn(folder: Path) -> dict[str, list[Path]]:
    """Three photos of each of three classes."""
    photos: dict[str, list[Path]] = {}
    for name in ("red circle", "blue square", "green star"):
        for i in range(3):
            image = Image.new("RGB", (192, 192), ("#f4f1ea", "#e8eef4", "#eef4e8")[i])
            draw, left, top = ImageDraw.Draw(image), 20 + 20 * i, 50 - 12 * i
            box = (left, top, left + 110, top + 110)
            if name == "red circle":
                draw.ellipse(box, fill="#d22b2b")
            elif name == "blue square":
                draw.rectangle(box, fill="#2b50d2")
            else:
                draw.regular_polygon((left + 55, top + 55, 66), 3, fill="#2ba04a")
                draw.regular_polygon((left + 55, top + 55, 66), 3, rotation=180, fill="#2ba04a")
            path = folder / f"{name} {i + 1}.png"
            image.save(path)
            photos.setdefault(name, []).append(path)
    return photos


def shoot_app(page: Page) -> None:
    """The page with nine photos and a trained classifier."""
    with TemporaryDirectory() as folder, running("app", "--model", "toy", "--device", "cpu") as (home, _):
        photos = drawn(Path(folder))
        page.goto(home)
        expect(page.locator("#names textarea")).to_have_value("\n".join(photos), timeout=SLOW)
        for count, (label, paths) in enumerate(photos.items(), start=1):
            page.locator("#label input").fill(label)
            page.locator("#label input").press("Enter")
            page.locator("#files input[type=file]").set_input_files(paths)
            expect(page.locator("#files")).to_contain_text(paths[-1].stem, timeout=SLOW)
            page.locator("#add").click()
            expect(page.locator("#photos img")).to_have_count(3 * count, timeout=SLOW)
        page.locator("#epochs input[type=number]").fill("20")
        page.locator("#epochs input[type=number]").press("Tab")
        page.locator("#train").click()
        expect(page.locator("#progress-text")).to_contain_text("Done: CoOp", timeout=SLOW)
        page.locator("#picture input[type=file]").set_input_files(photos["green star"][1])
        for view in ("#zeroshot", "#tuned"):
            expect(page.locator(view)).to_contain_text("%", timeout=SLOW)
        page.wait_for_timeout(2000)  # pictures fade in
        write_png("app", page.screenshot(full_page=True))


# The notebook.


def execute_notebook() -> None:
    """Run it in place, so that whoever looks at it on a web page sees what it draws."""
    path = ROOT / "examples" / "quickstart.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute(cwd=path.parent)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time of day
        if "outputs" in cell:  # without what is printed while it works
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and _lasting(o)]
    nbformat.write(notebook, path)


def _lasting(output: nbformat.NotebookNode) -> bool:
    """Not the empty place of a bar."""
    return output.get("data", {}).get("text/html", "there") != ""


def main(words: Sequence[str]) -> None:
    """All pictures, or those that are named after the folder."""
    demo, wanted = Path(words[0]), set(words[1:])
    OUT.mkdir(exist_ok=True)
    if not wanted or "demo" in wanted:
        draw_accuracy(demo)
        draw_lengths(demo)
    if not wanted or "notebook" in wanted:
        execute_notebook()
    with browser_page() as page:
        if not wanted or "report" in wanted:
            shoot_report(demo, page)
        if not wanted or "app" in wanted:
            shoot_app(page)


if __name__ == "__main__":
    main(sys.argv[1:])
