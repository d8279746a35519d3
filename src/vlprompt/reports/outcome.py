"""Where a classifier is right and wrong: the sections of a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from vlprompt.data.images import open_image
from vlprompt.data.thumbnails import thumbnail
from vlprompt.dataset import Text
from vlprompt.insight.outcome import ClassOutcome, Outcome
from vlprompt.reports import outcome_plots
from vlprompt.reports.page import Html, details, figure, paragraph, section, table
from vlprompt.reports.svg import inline_svg

MATRIX = 20
"""Most classes of a confusion matrix; of more, the most frequent mistakes are listed."""
PAIRS = 20
FIRST = 20
"""Most classes of the table that is open from the start."""
THUMBNAILS = 12
SHOWN = 200
"""Characters of a text."""


def outcome_sections(outcome: Outcome) -> list[str]:
    """Class by class, what is mistaken for what, mistakes, doubtful images, calibration; as HTML."""
    return [
        section("Class by class", class_table(outcome)),
        section("What is mistaken for what", confusion(outcome)),
        section("Most confident mistakes", *_mistakes(outcome)),
        section("Most doubtful images", *_doubtful(outcome)),
        section("Calibration", reliability(outcome)),
    ]


def class_table(outcome: Outcome) -> str:
    """Accuracy and count of every class, the least accurate first."""
    classes = sorted((c for c in outcome.classes if c.images), key=lambda c: c.accuracy or 0)
    caption = (
        "The least accurate first. Accuracy: the share of the class's images that were recognised (recall). "
        "Precision: the share of the images put into the class that belong there."
    )
    if len(classes) <= FIRST:
        return _class_table(classes, caption)
    worst = f"The {FIRST} least accurate of {len(classes)} classes. {caption.partition('. ')[2]}"
    return _class_table(classes[:FIRST], worst) + details("All classes", _class_table(classes, ""))


def _class_table(classes: Sequence[ClassOutcome], caption: str) -> str:
    rows = [
        [c.name, str(c.images), _meter(c.accuracy), _meter(c.precision), c.mistaken_for or "–"]
        for c in classes
    ]
    head = ["class", "images", "accuracy (%)", "precision (%)", "most often mistaken for"]
    return table(head, rows, caption)


def _meter(percent: float | None) -> str:
    if percent is None:
        return "–"
    return Html(f'<span class="meter" style="--part: {percent / 100:.3f}">{percent:.1f}</span>')


def confusion(outcome: Outcome) -> str:
    """The confusion matrix; of many classes, the most frequent mistakes."""
    pairs = outcome.pairs(PAIRS)
    if len(outcome.present) > MATRIX:
        rows = [[p.truth, p.prediction, str(p.images), f"{p.share:.1f}"] for p in pairs]
        head = ["truth", "prediction", "images", "of the class (%)"]
        return table(head, rows, "The most frequent mistakes.") if rows else paragraph("Nothing.")
    names = [outcome.classnames[k] for k in outcome.present]
    worst = "; ".join(f"{p.truth} taken for {p.prediction} {p.images} times" for p in pairs[:3])
    alt = f"Confusion matrix: {worst or 'no mistakes'}"
    svg = inline_svg(outcome_plots.confusion_matrix(outcome.confusion, names), "confusion", alt)
    return figure(svg, "Number of images. Shade: share of the true class. Blue: right; orange: wrong.")


def reliability(outcome: Outcome) -> str:
    """The reliability diagram."""
    error = outcome.measured["ece"]
    alt = f"Reliability diagram: expected calibration error {error:.1f} %"
    svg = inline_svg(outcome_plots.reliability(outcome.calibration), "reliability", alt)
    caption = (
        "On the dashed line a prediction of 80 % is right in 80 of 100 cases; below it the classifier is "
        "too sure of itself. Each point is a fifteenth of the range of confidence, with the images in it. "
        f"Their mean distance from the line is the expected calibration error (ECE), {error:.2f} %."
    )
    return figure(svg, caption)


def _mistakes(outcome: Outcome) -> list[str]:
    found = outcome.mistakes(THUMBNAILS)
    if not found:
        return [paragraph("There are no mistakes.")]
    words = "Wrong predictions with the highest probability: where a label is wrong, it is often here."
    cards = (_card(outcome, i, 1) for i in found)
    return [paragraph(words), _thumbnails(cards)]


def _doubtful(outcome: Outcome) -> list[str]:
    words = "Images whose two likeliest classes are nearest to each other, whether the guess is right or not."
    cards = (_card(outcome, i, 2) for i in outcome.doubtful(THUMBNAILS))
    return [paragraph(words), _thumbnails(cards)]


def _card(outcome: Outcome, position: int, most: int) -> str:
    """One image with its likeliest classes and the truth."""
    truth, path = outcome.classnames[outcome.labels[position]], outcome.name(position)
    guesses = "<br>".join(f"{escape(name)} {100 * p:.0f} %" for name, p in outcome.likeliest(position, most))
    if isinstance(outcome.images[position], Text):
        return (
            f"<li><strong>{guesses}</strong>truth: {escape(truth)}<small>{escape(path[:SHOWN])}</small></li>"
        )
    tiny = ' class="tiny"' if max(open_image(outcome.images[position]).size) <= 64 else ""
    alt = f"{Path(path).name}: {truth}"
    return (
        f'<li><img{tiny} src="{thumbnail(outcome.images[position])}" alt="{escape(alt)}" '
        f'title="{escape(path)}"><strong>{guesses}</strong>truth: {escape(truth)}'
        f"<small>{escape(Path(path).name)}</small></li>"
    )


def _thumbnails(cards: Iterable[str]) -> str:
    return f'<ol class="thumbnails">{"".join(cards)}</ol>'
