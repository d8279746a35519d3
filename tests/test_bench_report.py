"""Tables and the report of a results store: honest averages, bold bests, clear gaps, commands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from browser import new_page, open_browser, texts, watch  # noqa: F401
from vlprompt.benchmark import protocols, results
from vlprompt.benchmark.report import write_bench_report
from vlprompt.benchmark.table_files import latex_tables, markdown_tables
from vlprompt.benchmark.tables import PUBLISHED_MODEL
from vlprompt.errors import UserError

LENGTHS = {"text": [0, 4], "vision": [2, 2], "text_confidence": [0.4, 0.5], "vision_confidence": [0.6, 0.7]}


def measured(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "macro_f1": accuracy - 1, "ece": 100 - accuracy, "n": 50}


def record(
    method: str, dataset: str, accuracy: float | Mapping[str, float], seed: int = 1, **run: Any
) -> dict[str, Any]:
    """A record as ``run_cell`` writes it; ``accuracy`` by split, or of "test"."""
    lengths = run.pop("lengths", None)
    by_split = accuracy if isinstance(accuracy, Mapping) else {"test": accuracy}
    run = {
        "suite": "mine", "protocol": "few-shot", "settings": {}, "preset": "", "model": "toy",
        "revision": None, "shots": 16, "augment": "none",
    } | run | {"method": method, "dataset": dataset, "seed": seed}  # fmt: skip
    return {
        "key": str(sorted(run.items())),
        "run": run,
        "metrics": {split: measured(percent) for split, percent in by_split.items()},
        "lengths": lengths,
        "seconds": 12.0 + seed,
        "parameters": 2048,
        "finished": f"2026-11-24T20:00:0{seed}+00:00",
        "version": "0.1.0",
        "command": f"vlprompt bench --methods {method} --datasets {dataset} --seeds {seed}",
    }


def rows(markdown: str) -> list[list[str]]:
    """Cells of all tables, without the lines below their heads."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_average_over_the_data_sets_is_of_each_seed() -> None:
    records = [
        record("coop", "cats", 70.0, 1), record("coop", "cats", 74.0, 2),
        record("coop", "dogs", 80.0, 1), record("coop", "dogs", 90.0, 2),
    ]  # fmt: skip
    assert rows(markdown_tables(records)) == [
        ["method", "cats", "dogs", "average of 2"],
        ["CoOp", "72.00 ± 2.83", "85.00 ± 7.07", "78.50 ± 4.95"],
    ]


def test_no_average_of_a_method_that_lacks_a_data_set() -> None:
    records = [record("coop", "cats", 70.0), record("coop", "dogs", 80.0), record("dpl", "cats", 99.0)]
    text = markdown_tables(records)
    assert rows(text)[1:] == [["CoOp", "70.00", "80.00", "75.00"], ["DPL", "**99.00**", "–", "–"]]
    assert "Not run yet: DPL on dogs." in text
    assert "One seed only (seed 1), so there are no deviations." in text


def test_average_takes_the_seeds_that_all_data_sets_have() -> None:
    records = [
        record("coop", "cats", 70.0, 1),
        record("coop", "cats", 90.0, 2),
        record("coop", "dogs", 80.0, 1),
    ]
    text = markdown_tables(records)
    assert rows(text)[1] == ["CoOp", "80.00 ± 14.14", "80.00", "75.00"]
    assert "Not run yet: CoOp on dogs (seed 2)." in text


def test_best_is_bold_and_so_are_ties_as_shown() -> None:
    records = [
        record("coop", "cats", 70.001),
        record("dpl", "cats", 70.004),
        record("zeroshot", "cats", 60.0),
    ]
    shown = [["CoOp", "**70.00**"], ["DPL", "**70.00**"], ["Zero-shot CLIP", "60.00"]]
    assert rows(markdown_tables(records))[1:] == shown


def test_least_calibration_error_and_time_are_best() -> None:
    records = [record("coop", "cats", 70.0, 1), record("dpl", "cats", 80.0, 1)]
    assert rows(markdown_tables(records, "ece"))[1:] == [["CoOp", "30.00"], ["DPL", "**20.00**"]]
    assert rows(markdown_tables(records, "macro_f1"))[1:] == [["CoOp", "69.00"], ["DPL", "**79.00**"]]
    assert rows(markdown_tables(records, "seconds"))[1:] == [["CoOp", "**13.0**"], ["DPL", "**13.0**"]]


def base_to_new(model: str = "toy", **run: Any) -> list[dict[str, Any]]:
    numbers = {("cats", 1): (80, 60), ("cats", 2): (82, 62), ("dogs", 1): (90, 40), ("dogs", 2): (92, 42)}
    return [
        record("coop", dataset, {"base": b, "new": n}, seed, protocol="base-to-new", model=model, **run)
        for (dataset, seed), (b, n) in numbers.items()
    ]


def test_harmonic_mean_of_each_seed_and_of_the_averages() -> None:
    """For one data set the mean of the seeds' H; for all of them H of the averages, as in papers."""
    assert rows(markdown_tables(base_to_new())) == [
        ["method", "base", "new", "H"],
        ["CoOp", "86.00 ± 1.41", "51.00 ± 1.41", "64.03 ± 1.51"],
        ["method", "base", "new", "H"],
        ["CoOp", "81.00 ± 1.41", "61.00 ± 1.41", "69.59 ± 1.44"],
        ["method", "base", "new", "H"],
        ["CoOp", "91.00 ± 1.41", "41.00 ± 1.41", "56.53 ± 1.62"],
    ]


def test_published_numbers_stand_beside_ours_for_the_same_backbone_only() -> None:
    table = rows(markdown_tables(base_to_new(PUBLISHED_MODEL)))
    assert table[0][4:] == ["published base", "published new", "published H"]
    assert table[1][3:] == ["64.03 ± 1.51", "82.69", "63.22", "71.66"]
    assert ["PromptKD", "–", "–", "–", "86.96", "80.73", "83.73"] in table
    assert "Measured here: average over 2." in markdown_tables(base_to_new(PUBLISHED_MODEL))
    own = [r | {"run": r["run"] | {"method": "tcp"}} for r in base_to_new(PUBLISHED_MODEL)]
    tcp = [row for row in rows(markdown_tables(own)) if row[0] == "TCP" and len(row) == 7]
    assert [row[3:] for row in tcp] == [["64.03 ± 1.51", "84.13", "75.36", "79.51"]]
    for other in (
        base_to_new(),
        base_to_new("openai/clip-vit-base-patch32"),
        base_to_new(PUBLISHED_MODEL, shots=4),
    ):
        assert "ublished" not in markdown_tables(other)


def test_changed_settings_have_no_published_number() -> None:
    table = rows(markdown_tables(base_to_new(PUBLISHED_MODEL, settings={"n_ctx": 4})))
    assert table[1][0] == "CoOp (n_ctx=4)"
    assert table[1][4:] == ["–", "–", "–"]


@pytest.mark.parametrize(("protocol", "own"), [("cross-dataset", "source"), ("domain", "test")])
def test_average_over_what_was_not_trained_on(protocol: str, own: str) -> None:
    records = [record("coop", "cats", {own: 90.0, "dogs": 60.0, "birds": 50.0}, protocol=protocol)]
    text = markdown_tables(records)
    assert "**Trained on cats, 16 shots.**" in text
    assert rows(text) == [
        ["method", "cats (source)", "dogs", "birds", "average of 2"],
        ["CoOp", "90.00", "60.00", "50.00", "55.00"],
    ]


def test_rows_are_named_after_what_the_user_changed() -> None:
    """Not after what the suite changes for a data set, which would tear a method's row apart."""
    suite = {"suite": "benchmark", "augment": "crop+flip"}
    records = [
        record("coop", "imagenet", 70.0, settings={"epochs": 50}, **suite),
        record("coop", "dtd", 60.0, **suite),
        record("coop", "imagenet", 71.0, settings={"epochs": 50, "n_ctx": 4}, **suite),
        record("coop", "imagenet", 72.0, **suite),
    ]
    assert [row[0] for row in rows(markdown_tables(records))[1:]] == [
        "CoOp", "CoOp (n_ctx=4)", "CoOp (epochs=published)",
    ]  # fmt: skip


def test_backbones_and_shots_are_never_mixed() -> None:
    records = [record("coop", "cats", 70.0, model="a"), record("coop", "cats", 80.0, model="b")]
    records.append(record("coop", "cats", 60.0, shots=1))
    text = markdown_tables(records)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## Few-shot classification: suite mine, backbone toy",
        "## Few-shot classification: suite mine, backbone a",
        "## Few-shot classification: suite mine, backbone b",
    ]
    assert [row[1] for row in rows(text) if row[0] == "CoOp"] == ["60.00", "70.00", "80.00"]


def test_latex() -> None:
    records = [record("coop", "oxford_pets", 70.0, s) for s in (1, 2)] + [record("dpl", "oxford_pets", 80.0)]
    text = latex_tables(records)
    assert "Method & oxford\\_pets \\\\" in text
    assert "CoOp & 70.00 {\\scriptsize $\\pm$ 0.00} \\\\" in text
    assert "DPL & \\textbf{80.00} \\\\" in text
    assert "Accuracy (\\%)" in text
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 1


def test_every_protocol_has_its_tables() -> None:
    assert set(results.HEADINGS) == set(protocols.PROTOCOLS)


def test_unknown_protocol_is_named() -> None:
    with pytest.raises(UserError, match="unknown protocol 'zero-day'"):
        markdown_tables([record("coop", "cats", 70.0, protocol="zero-day")])


# The page.


def store() -> list[dict[str, Any]]:
    """All protocols, two methods, two seeds."""
    made = []
    for seed in (1, 2):
        for method, gain, lengths in (("coop", 0, None), ("dpl", 5, LENGTHS)):
            for dataset in ("cats", "dogs"):
                for shots in (1, 4, 16):
                    percent = 60.0 + gain + shots
                    made.append(record(method, dataset, percent, seed, shots=shots, lengths=lengths))
                base_new = {"base": 80.0 + gain, "new": 60.0 + seed}
                made.append(record(method, dataset, base_new, seed, protocol="base-to-new"))
            targets = {"source": 70.0 + gain, "dogs": 50.0}
            made.append(record(method, "cats", targets, seed, protocol="cross-dataset"))
            shifts = {"test": 70.0 + gain, "sketch": 50.0, "noise": 40.0}
            made.append(record(method, "cats", shifts, seed, protocol="domain"))
    return made


def show(page: Page, path: Path, records: list[dict[str, Any]]) -> list[str]:
    """Write a report and open it; what goes wrong comes back."""
    write_bench_report(records, path, "Cats & dogs")
    problems = watch(page, path.as_uri())
    page.goto(path.as_uri())
    return problems


def test_page(page: Page, tmp_path: Path) -> None:
    assert show(page, tmp_path / "new" / "report.html", store()) == []
    assert page.title() == "Cats & dogs"
    assert page.inner_text(".lead").startswith(
        "40 finished runs: 2 methods, 2 data sets, 2 seeds, 1 backbone;"
    )
    assert texts(page, "h2") == [
        "Few-shot classification: suite mine, backbone toy",
        "Base-to-new generalisation: suite mine, backbone toy",
        "Cross-dataset transfer: suite mine, backbone toy",
        "Domain generalisation: suite mine, backbone toy",
        "Methods",
        "How this was made",
    ]
    assert page.get_by_role("img", name="Accuracy against shots").is_visible()
    few_shot = page.get_by_role("table").filter(has_text="average of 2").first
    dpl = few_shot.get_by_role("row").filter(has_text="DPL")
    assert dpl.locator("strong").all_inner_texts() == ["81.00", "81.00", "81.00"]
    assert few_shot.get_by_role("row").filter(has_text="CoOp").locator("strong").count() == 0
    tip = dpl.locator("span").first.get_attribute("title")
    assert tip == "\n".join(f"vlprompt bench --methods dpl --datasets cats --seeds {s}" for s in (1, 2))
    assert (
        "Highest accuracy (average of 2): DPL, 81.00 ± 0.00 %, then CoOp, 76.00 ± 0.00 %." in page.content()
    )


def test_page_keeps_the_rest_folded(page: Page, tmp_path: Path) -> None:
    show(page, tmp_path / "report.html", store())
    section = page.locator("section").first
    error = section.get_by_role("table").filter(has_text="Expected calibration error").first
    assert error.is_hidden()
    section.get_by_text("Expected calibration error (%, less is better)", exact=True).first.click()
    assert error.is_visible()
    assert error.get_by_role("row").filter(has_text="DPL").locator("strong").count() == 3
    section.get_by_text("Searched context lengths").first.click()
    assert section.get_by_text("all 2 seeds chose the same length in 2 of 2 layers").first.is_visible()
    section.get_by_text("1 shot", exact=True).first.click()
    assert section.get_by_role("row").filter(has_text="66.00").first.is_visible()
    section.get_by_text("Commands of all runs").click()
    commands = section.locator("pre").inner_text().splitlines()
    assert commands[0] == "# CoOp on cats; shots 1, 4, 16; seed 1"
    assert commands[1] == "vlprompt bench --methods coop --datasets cats --seeds 1"


def test_page_of_an_incomplete_store(page: Page, tmp_path: Path) -> None:
    records = [record("coop", "cats", 70.0), record("coop", "dogs", 60.0), record("dpl", "cats", 80.0)]
    assert show(page, tmp_path / "report.html", records) == []
    assert page.get_by_text("Not run yet: DPL on dogs. One seed only (seed 1)").is_visible()
    assert page.get_by_role("row").filter(has_text="DPL").first.inner_text().split("\t")[-2:] == ["–", "–"]
    assert page.locator("svg").count() == 0


def test_page_of_an_empty_store(page: Page, tmp_path: Path) -> None:
    assert show(page, tmp_path / "report.html", []) == []
    assert page.inner_text(".lead") == "There is no finished run in the store yet."


def test_page_shows_names_as_text(page: Page, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    records = [record("coop", evil, 70.0, s, model=evil, shots=n) for s in (1, 2) for n in (1, 16)]
    assert show(page, tmp_path / "report.html", records) == []
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("width", [360, 1000])
def test_page_of_eleven_data_sets_fits(page: Page, tmp_path: Path, width: int) -> None:
    """The whole table of the field on an ordinary screen; on a phone tables scroll in their own place."""
    page.set_viewport_size({"width": width, "height": 800})
    names = ["imagenet", "caltech101", "oxfordpets", "stanfordcars", "flowers102", "food101", "fgvcaircraft"]
    names += ["sun397", "dtd", "eurosat", "ucf101"]
    records = [record(m, name, 70.0 + s, s) for m in ("coop", "promptsrc") for name in names for s in (1, 2)]
    for name in names[:4]:
        records.append(record("zeroshot", name, {"base": 70.0, "new": 60.0}, protocol="base-to-new"))
    show(page, tmp_path / "report.html", records)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1000:
        assert page.evaluate(
            "[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)"
        )
