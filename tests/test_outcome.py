"""Where a classifier is wrong: the numbers are scikit-learn's, and the page shows them."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import Page
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from browser import LOOKS, misplaced, new_page, open_browser, texts, watch  # noqa: F401
from support import NAMES, photos_and_labels
from vlprompt import PromptClassifier, UserError, data
from vlprompt.cli.main import main
from vlprompt.insight.outcome import Outcome
from vlprompt.metrics import calibration

SURE = {"settings": {"epochs": 2, "n_ctx": 2}, "augment": "none"}


def predictions(classes: int, images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) and labels (N,) that know a little of each other; the last class has no image."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes - 1, images)
    logits = 1.5 * draw.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    logits[:, 0] -= 9 * (classes > 3)  # a class that is never predicted
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True), labels


@pytest.mark.parametrize(("classes", "images"), [(2, 9), (5, 200), (30, 900)])
def test_numbers_are_those_of_scikit_learn(classes, images):
    probabilities, labels = predictions(classes, images)
    names = tuple(f"class {k}" for k in range(classes))
    outcome, guesses = Outcome(probabilities, labels, names, [""] * images), probabilities.argmax(1)
    assert outcome.measured["accuracy"] == pytest.approx(100 * accuracy_score(labels, guesses), abs=1e-12)
    assert (outcome.confusion == confusion_matrix(labels, guesses)).all()
    precision, recall, _, count = precision_recall_fscore_support(
        labels, guesses, labels=range(classes), zero_division=np.nan
    )
    found = pd.DataFrame(outcome.classes)
    assert found["images"].tolist() == count.tolist()
    np.testing.assert_allclose(found["accuracy"].astype(float), 100 * recall, atol=1e-12)
    np.testing.assert_allclose(found["precision"].astype(float), 100 * precision, atol=1e-12)
    right, sure = guesses == labels, probabilities.max(1)
    bins, (accuracy, confidence) = (
        calibration(probabilities, labels),
        calibration_curve(right, sure, n_bins=15),
    )
    np.testing.assert_allclose(bins.accuracy, accuracy, atol=1e-12)
    np.testing.assert_allclose(bins.confidence, confidence, atol=1e-12)
    counts = np.histogram(sure, 15, (0, 1))[0]
    assert bins.images.tolist() == counts[counts > 0].tolist()
    error = (abs(accuracy - confidence) * bins.images).sum() / images
    assert outcome.measured["ece"] == pytest.approx(100 * error, abs=1e-12)
    pairs = outcome.pairs(1000)
    whole = confusion_matrix(labels, guesses, labels=range(classes))
    assert sum(pair.images for pair in pairs) == (guesses != labels).sum()
    assert all(whole[names.index(p.truth), names.index(p.prediction)] == p.images for p in pairs)
    assert [p.images for p in pairs] == sorted((p.images for p in pairs), reverse=True)


def test_mistakes_and_doubts():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.45, 0.5, 0.05], [0.1, 0.2, 0.7]])
    outcome = Outcome(
        probabilities, np.array([1, 1, 0, 0]), ("a", "b", "c"), [Path("x/y.png"), *[np.zeros(3)] * 3]
    )
    assert outcome.mistakes(12) == [0, 3, 2] and outcome.mistakes(1) == [0]
    assert outcome.doubtful(2) == [2, 1]
    assert outcome.likeliest(1, 2) == [("b", 0.5), ("c", 0.3)]
    assert (outcome.name(0), outcome.name(3)) == (str(Path("x/y.png")), "image 4")
    assert [c.mistaken_for for c in outcome.classes] == ["b", "a", ""]
    faultless = Outcome(np.eye(2), np.array([0, 1]), ("a", "b"), ["", ""])
    assert faultless.mistakes(12) == [] and faultless.pairs(5) == []


def seen_at_every_width(page: Page, file: Path) -> None:
    problems = watch(page, file.as_uri())
    for width, scheme in LOOKS:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(file.as_uri())
        assert misplaced(page) == [], (width, scheme)
    assert problems == []


def test_fit_and_evaluate_say_where_it_is_wrong(photos, page: Page, tmp_path: Path, capsys) -> None:
    """From the command to the page, whose numbers are scikit-learn's on the predictions of the CSV file."""
    kept, shown, rows = tmp_path / "kept", tmp_path / "page.html", tmp_path / "out.csv"
    flags = ["--shots", "2", "--epochs", "3", "--n-ctx", "2"]
    assert main(["fit", str(photos), "--out", str(kept), *flags]) == 0
    seen_at_every_width(page, kept / "report.html")
    headings = ["Class by class", "What is mistaken for what", "Most confident mistakes", "Calibration"]
    assert set(headings) < set(texts(page, "h2"))
    assert page.get_by_role("img", name="Validation accuracy").count() == 1

    paths, labels = photos_and_labels(photos)
    labels = [NAMES[(NAMES.index(label) + (i % 4 == 0)) % 3] for i, label in enumerate(labels)]  # some wrong
    table = tmp_path / "some wrong.csv"
    table.write_text(
        "path,label\n" + "".join(f"{path},{label}\n" for path, label in zip(paths, labels, strict=True))
    )
    words = ["evaluate", str(kept), str(table), "--report", str(shown), "--predictions", str(rows)]
    assert main(words) == 0
    assert f"report     {shown}" in capsys.readouterr().out
    assert main(words) == 0  # over what it wrote itself
    rows.write_text("mine\n" + rows.read_text())
    assert "--force" in (main(words), capsys.readouterr().err)[1]
    assert main([*words, "--force"]) == 0
    seen_at_every_width(page, shown)
    told = list(csv.DictReader(rows.open(encoding="utf-8")))
    given = dict(zip(map(str, paths), labels, strict=True))
    assert len(told) == len({row["image"] for row in told}) == 15  # without those that it was trained on
    truth, guesses = ([row[key] for row in told] for key in ("truth", "prediction"))
    assert truth == [given[row["image"]] for row in told] and truth != guesses
    assert f"{100 * accuracy_score(truth, guesses):.1f} %" in page.inner_text(".lead")
    counts = confusion_matrix(truth, guesses, labels=NAMES)
    drawn = page.locator("svg[aria-labelledby^=confusion] text").all_text_contents()
    assert sorted(t.strip() for t in drawn if t.strip().isdigit()) == sorted(
        str(n) for n in counts.ravel() if n
    )
    precision, recall, _, support = precision_recall_fscore_support(
        truth, guesses, labels=NAMES, zero_division=np.nan
    )
    cells = [row.inner_text().split("\t") for row in page.locator("table >> nth=1 >> tbody tr").all()]
    expected = {
        name: [str(n), f"{100 * r:.1f}", "–" if np.isnan(p) else f"{100 * p:.1f}"]
        for name, n, r, p in zip(NAMES, support, recall, precision, strict=True)
    }
    assert {row[0]: row[1:4] for row in cells} == expected
    wrong = [row for row in told if row["truth"] != row["prediction"]]
    surest = sorted(wrong, key=lambda row: -float(row["probability"]))[:12]
    cards = page.locator("section", has_text="Most confident mistakes").locator("li")
    assert [card.inner_text().split("\n")[0] for card in cards.all()] == [
        f"{row['prediction']} {100 * float(row['probability']):.0f} %" for row in surest
    ]
    confidence = np.array([float(row["probability"]) for row in told])
    right = np.array(truth) == np.array(guesses)
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    count = np.histogram(confidence, 15, (0, 1))[0]
    error = 100 * (abs(accuracy - mean) * count[count > 0]).sum() / len(told)
    (said,) = re.findall(r"\(ECE\), ([\d.]+) %", page.inner_text("main"))
    assert float(said) == pytest.approx(error, abs=0.01)
    assert shown.stat().st_size < 400_000


def test_report_of_many_classes(page: Page, tmp_path: Path) -> None:
    """More than a matrix can show: the most frequent mistakes as a list, the worst classes first."""
    probabilities, labels = predictions(60, 400)
    names = tuple(f"a class with a long name that has the number {k}" for k in range(60))
    classifier = PromptClassifier("zeroshot", augment="none")
    blank = np.zeros((300, 200, 3), np.uint8)
    classifier.fit([blank] * 60, names)
    report = classifier.report([blank, blank], names[:2])
    object.__setattr__(report, "outcome", Outcome(probabilities, labels, names, [blank] * 400))
    report.save(tmp_path / "page.html")
    seen_at_every_width(page, tmp_path / "page.html")
    assert page.locator("svg[aria-labelledby^=confusion]").count() == 0
    assert "The most frequent mistakes." in page.inner_text("main")
    assert page.locator("details", has_text="All classes").count() == 1


def test_report_in_python(photos, tmp_path):
    paths, labels = photos_and_labels(photos)
    numbers = [NAMES.index(label) for label in labels]
    classifier = PromptClassifier("coop", class_names=NAMES, **SURE)
    classifier.fit(paths[::2], numbers[::2], paths[1::2], numbers[1::2])
    report = classifier.report(paths, numbers)
    assert set(report.figures) == {"confusion", "reliability", "loss", "val_accuracy"}
    table = pd.DataFrame(report.table).set_index("name")
    guesses = classifier.predict(paths)
    for k, name in enumerate(NAMES):
        assert table.loc[name, "accuracy"] == pytest.approx(100 * np.mean(guesses[np.equal(numbers, k)] == k))
    right = classifier.predict(paths[1::2]) == numbers[1::2]
    assert classifier.history_[-1]["val_accuracy"] == pytest.approx(100 * right.mean())
    assert "<table" in report._repr_html_() and report._repr_html_().count("<svg") == 2
    with pytest.raises(UserError, match="label '7' is not among"):
        classifier.report(paths[:1], [7])
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(UserError, match="force=True"):
        report.save(tmp_path / "page.html")


@pytest.mark.parametrize("method", ["coop", "vpt"])
def test_looking_at_validation_images_changes_nothing(method, photos):
    """The same weights to the bit."""
    dataset = data.few_shot(data.load(str(photos)), 3, 1, strict=True)
    settings = {"epochs": 3, "batch_size": 4}
    learned = []
    for validate in (False, True):
        classifier = PromptClassifier(method, settings=settings, augment="crop")
        classifier.fit_dataset(dataset, validate=validate)
        assert all(("val_accuracy" in record) == validate for record in classifier.history_)
        learned.append(list(classifier.method_.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*learned, strict=True))
