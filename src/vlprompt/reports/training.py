"""A report of trained classifiers: one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from vlprompt.insight.outcome import Outcome
from vlprompt.methods.lengths import Lengths
from vlprompt.reports import plots
from vlprompt.reports.lengths import agreement, alpha_curves, alpha_map, lengths_table
from vlprompt.reports.outcome import outcome_sections
from vlprompt.reports.page import code, details, figure, paragraph, section, table, write_page
from vlprompt.reports.sizes import curve_of, size_curve
from vlprompt.reports.stats import duration, mean_std, number
from vlprompt.reports.svg import inline_svg, method_colors


@dataclass(frozen=True)
class Run:
    """One trained (or zero-shot) classifier.

    Args:
        title: the method's title; runs of the same title differ in their seed.
        measured: metrics by what they were measured on, as in :func:`vlprompt.metrics.measure`; may be empty.
        history: one record an epoch; empty where nothing was trained in epochs.
        lengths: context length of every layer, where the method has them.
        seconds: training time, where it is known.
    """

    title: str
    method: str
    seed: int
    measured: dict[str, dict[str, float]]
    history: list[dict[str, Any]]
    lengths: Lengths | None
    seconds: float | None
    classnames: tuple[str, ...] = ()


Groups = dict[str, list[Run]]
"""The runs of each method by its title, one a seed."""


def write_report(
    path: Path,
    runs: list[Run],
    *,
    title: str,
    dataset: str,
    command: str,
    outcome: Outcome | None = None,
) -> None:
    """Write the page; the file appears whole or not at all.

    Args:
        runs: one or more.
        dataset: name of the data.
        command: what made the runs.
        outcome: of the first run, to show where it is wrong.
    """
    groups: Groups = {}
    for run in runs:
        groups.setdefault(run.title, []).append(run)
    colors = method_colors(list(groups))
    sections = [
        _accuracy(groups, colors),
        _table(groups),
        *(outcome_sections(outcome) if outcome else ()),
        _learning(groups, colors),
        *(_searched(index, runs) for index, runs in enumerate(groups.values())),
        _origin(runs[0].classnames, dataset, command),
    ]
    write_page(path, title, _headline(groups), sections)


# The parts of the page.


def _headline(groups: Groups) -> str:
    """The result in words."""
    ranked = sorted(_measured(groups, _first_split(groups)).items(), key=lambda item: -mean_std(item[1])[0])
    if not ranked:
        methods = escape(", ".join(groups))
        return f"{methods}: accuracy was not measured, as no labelled test images were given."
    (best, values), others = ranked[0], ranked[1:]
    run = groups[best][0]
    split = _first_split(groups)
    words = f"<strong>{escape(best)}</strong> gets <strong>{number(values, 1)} %</strong>"
    words += f" of {int(run.measured[split]['n']):,} {escape(split)} images right"
    words += f" over {len(values)} seeds" if len(values) > 1 else ""
    if not others:
        chance = _chance(groups)
        return words + (f"; guessing would get {chance:.1f} %." if chance else ".")
    second, other_values = others[0]
    lead = mean_std(values)[0] - mean_std(other_values)[0]
    spread = max(mean_std(values)[1], mean_std(other_values)[1])
    words += f", {lead:.1f} points more than {escape(second)} ({number(other_values, 1)} %)"
    words += ", a lead within the spread of the seeds" if lead < spread else ""
    rest = [f"{escape(title)} {number(v, 1)} %" for title, v in others[1:]]
    return words + (f". The others: {', '.join(rest)}." if rest else ".")


def _accuracy(groups: Groups, colors: Mapping[str, str]) -> str:
    """Bars for everything that was measured on."""
    figures = []
    for index, split in enumerate(_splits(groups)):
        values = _measured(groups, split)
        chance = _chance(groups)
        alt = f"Accuracy on {split}: " + ", ".join(f"{t} {number(v, 1)} %" for t, v in values.items())
        svg = inline_svg(plots.accuracy_bars(values, colors, chance), f"accuracy{index}", alt)
        several = any(len(v) > 1 for v in values.values())
        caption = f"Measured on: {split}."
        caption += " Bars are means, whiskers standard deviations, dots single seeds." if several else ""
        caption += " The dashed line is guessing." if chance else ""
        figures.append(figure(svg, caption))
    return section("Accuracy", *figures) if figures else ""


def _table(groups: Groups) -> str:
    """Method x metrics, and every single run where methods have several."""
    splits = _splits(groups) or [""]
    several = any(len(runs) > 1 for runs in groups.values())
    head = ["method", "measured on", *METRICS, "images", "seeds", "training time"]
    rows = [[title, *_metrics(runs, split)] for title, runs in groups.items() for split in splits]
    parts = [table(head, rows, METRICS_CAPTION + (" Mean ± standard deviation." if several else ""))]
    if several:
        rows = [
            [run.title, str(run.seed), *_metrics([run], split)[:-2], _seconds([run])]
            for runs in groups.values()
            for run in runs
            for split in splits
        ]
        head = ["method", "seed", "measured on", *METRICS, "images", "training time"]
        parts.append(details("Every run", table(head, rows)))
    return section("Measurements", *parts)


def _metrics(runs: Sequence[Run], split: str) -> list[str]:
    """Cells of one row of the table."""
    measured = [run.measured[split] for run in runs if split in run.measured]
    cells = [number([m[key] for m in measured], 2) if measured else "–" for key in METRICS.values()]
    images = f"{int(measured[0]['n']):,}" if measured else "–"
    return [split or "–", *cells, images, str(len(runs)), _seconds(runs)]


def _seconds(runs: Sequence[Run]) -> str:
    """Training time."""
    return duration([run.seconds for run in runs if run.seconds is not None])


def _learning(groups: Groups, colors: Mapping[str, str]) -> str:
    """Loss, and accuracy on validation images, over epochs of all methods that were trained in epochs."""
    figures = [_curves(groups, colors, quantity) for quantity in plots.QUANTITIES]
    return section("Learning curves", *figures) if any(figures) else ""


def _curves(groups: Groups, colors: Mapping[str, str], quantity: str) -> str:
    recorded = {
        title: [r.history for r in runs if any(quantity in record for record in r.history)]
        for title, runs in groups.items()
    }
    recorded = {title: seeds for title, seeds in recorded.items() if seeds}
    if not recorded:
        return ""
    words, ends = plots.QUANTITIES[quantity], []
    for title, seeds in recorded.items():
        values = [record[quantity] for record in seeds[0] if quantity in record]
        ends.append(f"{title} from {values[0]:.2f} to {values[-1]:.2f}")
    alt = f"{words.capitalize()} over epochs: {', '.join(ends)}"
    svg = inline_svg(plots.learning_curves(recorded, colors, quantity), f"learning-{quantity}", alt)
    caption = "Mean loss of every epoch, one stage after the other."
    if quantity != "loss":
        caption = "Accuracy on the validation images, which most methods do not learn from."
    caption += " A line a seed." if any(len(seeds) > 1 for seeds in recorded.values()) else ""
    return figure(svg, caption)


def _searched(index: int, runs: Sequence[Run]) -> str:
    """Lengths of every layer, and the alphas that they come from, of one method."""
    lengths = {r.seed: r.lengths for r in runs if r.lengths and (r.lengths.text or r.lengths.vision)}
    parts = [lengths_table(lengths), agreement(lengths)] if lengths else []
    for number_of, run in enumerate(runs):
        points, size = curve_of(run.history)
        parts += [size_curve(100 * index + number_of, points, size)] if points else []
    searched = [(r, alphas) for r in runs if r.lengths and (alphas := _alphas(r))]
    if searched:
        run, alphas = searched[0]
        of_seed = f" Seed {run.seed}." if len(runs) > 1 else ""
        chosen = {branch: getattr(run.lengths, branch) for branch in alphas[-1]}
        parts += [
            alpha_map(index, alphas[-1], chosen, of_seed),
            alpha_curves(index, alphas, of_seed),
        ]
    return section(f"{runs[0].title}: context lengths", *parts) if parts else ""


def _origin(classnames: Sequence[str], dataset: str, command: str) -> str:
    """Where all this comes from."""
    counted = f"{len(classnames)} classes" if classnames else ""
    data = ", ".join(filter(None, [dataset, counted]))
    names = details("Class names", paragraph(", ".join(classnames))) if classnames else ""
    return section("How this was made", paragraph(f"Data: {data}."), names, code(command) if command else "")


# What the parts are made of.


def _splits(groups: Groups) -> list[str]:
    """Everything that was measured on, in the order of first appearance."""
    return list(dict.fromkeys(split for runs in groups.values() for run in runs for split in run.measured))


def _first_split(groups: Groups) -> str:
    """What the headline speaks of."""
    splits = _splits(groups)
    return "test" if "test" in splits or not splits else splits[0]


def _measured(groups: Groups, split: str) -> dict[str, list[float]]:
    """Accuracy of every seed of every method."""
    accuracy = {
        title: [run.measured[split]["accuracy"] for run in runs if split in run.measured]
        for title, runs in groups.items()
    }
    return {title: values for title, values in accuracy.items() if values}


def _chance(groups: Groups) -> float | None:
    """Accuracy of guessing in percent, where all runs are known to have equally many classes."""
    counts = {len(run.classnames) for runs in groups.values() for run in runs}
    return 100 / counts.pop() if len(counts) == 1 and 0 not in counts else None


def _alphas(run: Run) -> list[dict[str, list[list[float]]]]:
    """The alphas after every epoch of the search; none of a branch without layers."""
    found = [record["alphas"] for record in run.history if "alphas" in record]
    return [{branch: weights for branch, weights in alphas.items() if weights} for alphas in found if alphas]


METRICS = {"accuracy": "accuracy", "macro-F1": "macro_f1", "calibration error": "ece"}
"""Heading and key of every metric."""
METRICS_CAPTION = (
    "Accuracy, macro-F1 and expected calibration error in percent; the last is better when smaller."
)
