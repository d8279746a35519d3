"""The report of trained classifiers, opened in a real browser."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from browser import new_page, open_browser, texts, watch  # noqa: F401
from vlprompt.methods.lengths import Lengths
from vlprompt.reports.lengths import agreement
from vlprompt.reports.training import Run, write_report

LENGTHS = Lengths((0, 4), (2, 2, 6), (0.4, 0.5), (0.6, 0.7, 0.8))


def measured(accuracy: float) -> dict[str, dict[str, float]]:
    return {"test": {"accuracy": accuracy, "macro_f1": accuracy - 1, "ece": 5.0, "n": 1234}}


def searched(epochs: int) -> list[dict[str, object]]:
    """A search that moves to LENGTHS, and the training after it."""
    alphas = {
        branch: [list(np.eye(7)[n] * 0.5 + 0.5 / 7) for n in getattr(LENGTHS, branch)]
        for branch in ("text", "vision")
    }
    search = [
        {"stage": "search", "epoch": e, "loss": 2.0 - e / epochs, "alphas": alphas} for e in range(epochs)
    ]
    return [*search, *trained(epochs)]


def trained(epochs: int) -> list[dict[str, object]]:
    return [{"stage": "train", "loss": 2.5 - 2 * e / epochs} for e in range(epochs)]


def runs(*seeds: int) -> list[Run]:
    classes = ("zero", "<one> & more")
    made = []
    for seed in seeds:
        made += [
            Run("Zero-shot CLIP", "zeroshot", seed, measured(40.0), [], None, 0.02, classes),
            Run("CoOp", "coop", seed, measured(70.0 + seed), trained(3), None, 100.0, classes),
            Run("DPL", "dpl", seed, measured(80.0 + 2 * seed), searched(4), LENGTHS, 240.0, classes),
        ]
    return made


def show(page: Page, path: Path, made: list[Run]) -> list[str]:
    """Write a report and open it; what goes wrong comes back."""
    write_report(path, made, title="Digits <3>", dataset="toy:digits", command="vlprompt demo --seeds '1 2'")
    problems = watch(page, path.as_uri())
    page.goto(path.as_uri())
    return problems


def cut_off(page: Page) -> list[str]:
    """Texts of figures that reach over the figure's edge."""
    return page.evaluate(
        """() => [...document.querySelectorAll('svg')].flatMap(svg => {
            const whole = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < whole.left - 1 || box.right > whole.right + 1
                    || box.top < whole.top - 1 || box.bottom > whole.bottom + 1;
            }).map(text => text.textContent);
        })"""
    )


def test_report_of_three_seeds(page: Page, tmp_path: Path) -> None:
    assert show(page, tmp_path / "new" / "report.html", runs(1, 2, 3)) == []
    assert page.title() == "Digits <3>"
    assert texts(page, ".lead") == [
        "DPL gets 84.0 ± 2.0 % of 1,234 test images right over 3 seeds, 12.0 points more than CoOp "
        "(72.0 ± 1.0 %). The others: Zero-shot CLIP 40.0 ± 0.0 %."
    ]
    headings = ["Accuracy", "Measurements", "Learning curves", "DPL: context lengths", "How this was made"]
    assert texts(page, "h2") == headings
    assert page.get_by_role("img").count() == page.locator("svg").count() == 4
    assert page.get_by_role("img", name="Accuracy on test").count() == 1
    first = page.get_by_role("table").first
    assert texts(page, "table >> nth=0 >> thead th")[:3] == ["method", "measured on", "accuracy"]
    assert first.get_by_role("row").filter(has_text="DPL").inner_text().split("\t") == [
        "DPL", "test", "84.00 ± 2.00", "83.00 ± 2.00", "5.00 ± 0.00", "1,234", "3", "4.0 ± 0.0 min",
    ]  # fmt: skip
    assert "all 3 seeds chose the same length in 2 of 2 layers" in page.inner_text("main")
    assert page.get_by_text("vlprompt demo --seeds '1 2'", exact=True).is_visible()
    page.get_by_text("Class names").click()
    assert page.get_by_text("zero, <one> & more").is_visible()
    assert cut_off(page) == []


def test_report_of_one_seed(page: Page, tmp_path: Path) -> None:
    """No deviations and no table of every run, which would repeat the first."""
    assert show(page, tmp_path / "report.html", runs(7)) == []
    assert "±" not in page.content()
    assert page.get_by_text("Every run").count() == 0
    assert "(seed" not in page.inner_text("main")
    assert cut_off(page) == []


def test_report_without_test_images_and_training(page: Page, tmp_path: Path) -> None:
    run = Run("Zero-shot CLIP", "zeroshot", 1, {}, [], None, 0.0)
    assert show(page, tmp_path / "report.html", [run]) == []
    assert "accuracy was not measured" in page.inner_text(".lead")
    assert texts(page, "h2") == ["Measurements", "How this was made"]


def test_report_is_lighter_than_its_page_in_the_dark(page: Page, tmp_path: Path) -> None:
    """Figures take the page's colours, light and dark."""
    seen = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        show(page, tmp_path / "report.html", runs(1))
        seen[scheme] = page.evaluate(
            """() => [document.body, document.querySelector('svg text')].map((element, i) =>
                getComputedStyle(element)[['backgroundColor', 'fill'][i]].match(/\\d+/g).map(Number))"""
        )
    paper, ink = seen["light"]
    assert min(paper) > 200 > 120 > max(ink)
    paper, ink = seen["dark"]
    assert max(paper) < 50 < 150 < min(ink)


@pytest.mark.parametrize("width", [360, 1000])
def test_report_never_scrolls_sideways_as_a_whole(page: Page, tmp_path: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    deep = Lengths((1,) * 12, (2,) * 12, (0.5,) * 12, (0.5,) * 12)
    show(page, tmp_path / "report.html", [Run("DPL", "dpl", 1, measured(80.0), [], deep, 1.0)])
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_agreement_counts_votes() -> None:
    other = Lengths((0, 5), (2, 3, 6))
    words = agreement({1: LENGTHS, 2: LENGTHS, 3: other})
    assert "In the text branch all 3 seeds chose the same length in 1 of 2 layers" in words
    assert "layer by layer: 3 2 of 3" in words
    assert "In the vision branch all 3 seeds chose the same length in 2 of 3 layers" in words
    assert agreement({1: LENGTHS}) == ""


def test_report_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, runs(1), title="A", dataset="d", command="c")
    broken = [Run("DPL", "dpl", 1, {"test": {}}, [], None, 1.0)]
    with pytest.raises(KeyError):
        write_report(path, broken, title="B", dataset="d", command="c")
    assert "<title>A</title>" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
