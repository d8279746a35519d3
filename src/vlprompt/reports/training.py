"""A report of trained classifiers: one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from vlprompt.methods.lengths import Lengths, agreed
from vlprompt.reports import plots
from vlprompt.reports.page import Html, code, details, figure, paragraph, section, table, write_page
from vlprompt.reports.stats import duration, mean_std, number


@dataclass(frozen=True)
class Run:
    """One trained (or zero-shot) classifier.

    Args:
        title: the method's title; runs of the same title differ in their seed.
        measured: metrics by what they were measured on, as in :func:`vlprompt.metrics.measure`; may be empty.
        history: one record an epoch; empty where nothing was trained in epochs.
        lengths: context length of every layer, where the method has them.
        seconds: training time.
    """

    title: str
    method: str
    seed: int
    measured: dict[str, dict[str, float]]
    history: list[dict[str, Any]]
    lengths: Lengths | None
    seconds: float
    classnames: tuple[str, ...] = ()


Groups = dict[str, list[Run]]
"""The runs of each method by its title, one a seed."""


def write_report(path: Path, runs: list[Run], *, title: str, dataset: str, command: str) -> None:
    """Write the page; the file appears whole or not at all.

    Args:
        runs: one or more.
        dataset: name of the data.
        command: what made the runs.
    """
    groups: Groups = {}
    for run in runs:
        groups.setdefault(run.title, []).append(run)
    colors = plots.method_colors(list(groups))
    sections = [
        _accuracy(groups, colors),
        _table(groups),
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
        svg = plots.inline_svg(plots.accuracy_bars(values, colors, chance), f"accuracy{index}", alt)
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
            [run.title, str(run.seed), *_metrics([run], split)[:-2], duration([run.seconds])]
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
    return [split or "–", *cells, images, str(len(runs)), duration([run.seconds for run in runs])]


def _learning(groups: Groups, colors: Mapping[str, str]) -> str:
    """Loss over epochs of all methods that were trained in epochs."""
    histories = {title: [r.history for r in runs if r.history] for title, runs in groups.items()}
    histories = {title: seeds for title, seeds in histories.items() if seeds}
    if not histories:
        return ""
    ends = (f"{t} from {s[0][0]['loss']:.2f} to {s[0][-1]['loss']:.2f}" for t, s in histories.items())
    svg = plots.inline_svg(
        plots.learning_curves(histories, colors), "learning", f"Loss over epochs: {', '.join(ends)}"
    )
    caption = "Mean loss of every epoch, one stage after the other."
    caption += " A line a seed." if any(len(seeds) > 1 for seeds in histories.values()) else ""
    return section("Learning curves", figure(svg, caption))


def _searched(index: int, runs: Sequence[Run]) -> str:
    """Lengths of every layer, and the alphas that they come from, of one method."""
    lengths = {r.seed: r.lengths for r in runs if r.lengths and (r.lengths.text or r.lengths.vision)}
    parts = [lengths_table(lengths), agreement(lengths)] if lengths else []
    searched = [(r, alphas) for r in runs if r.lengths and (alphas := _alphas(r))]
    if searched:
        run, alphas = searched[0]
        of_seed = f" Seed {run.seed}." if len(runs) > 1 else ""
        chosen = {branch: getattr(run.lengths, branch) for branch in alphas[-1]}
        parts += [_heatmaps(index, alphas[-1], chosen, of_seed), _evolution(index, alphas, of_seed)]
    return section(f"{runs[0].title}: context lengths", *parts) if parts else ""


def lengths_table(lengths: Mapping[int, Lengths]) -> str:
    """Length and confidence of every layer, a row a branch and seed, as HTML.

    Args:
        lengths: by seed, one or more.
    """
    layers = max(len(branch) for found in lengths.values() for branch in (found.text, found.vision))
    rows = []
    for branch in BRANCHES:
        for seed, found in lengths.items():
            chosen = getattr(found, branch)
            cells = _length_cells(chosen, getattr(found, f"{branch}_confidence"))
            rows.append([branch, str(seed), *cells, *["–"] * (layers - len(cells)), str(sum(chosen))])
    head = ["branch", "seed", *(str(n + 1) for n in range(layers)), "tokens"]
    caption = "Context length of each layer, the first to the left; 0 is no prompt."
    if any(found.text_confidence or found.vision_confidence for found in lengths.values()):
        caption += " Below each: confidence, the softmax(alpha) of the chosen length."
    return table(head, rows, caption)


def _length_cells(lengths: Sequence[int], confidence: Sequence[float]) -> list[str]:
    if not confidence:
        return [str(n) for n in lengths]
    return [Html(f"{n}<br><small>{p:.2f}</small>") for n, p in zip(lengths, confidence, strict=True)]


def agreement(lengths: Mapping[int, Lengths]) -> str:
    """How far several seeds found the same, in words, as HTML; nothing for one seed."""
    seeds = len(lengths)
    if seeds < 2:
        return ""
    most = agreed(list(lengths.values()))
    sentences = []
    for branch in BRANCHES:
        votes = [round(share * seeds) for share in getattr(most, f"{branch}_confidence")]
        if votes:
            sentences.append(
                f"In the {branch} branch all {seeds} seeds chose the same length in "
                f"{votes.count(seeds)} of {len(votes)} layers "
                f"(most frequent choice, layer by layer: {_plain(votes)} of {seeds})."
            )
    return paragraph(" ".join(sentences))


def _heatmaps(
    index: int, alphas: Mapping[str, plots.Weights], chosen: Mapping[str, Sequence[int]], of_seed: str
) -> str:
    """The weights at the end of the search, and what was made of them."""
    words = (f"{branch} branch {_plain(lengths)}" for branch, lengths in chosen.items())
    alt = f"Chosen length of each layer: {'; '.join(words)}"
    svg = plots.inline_svg(plots.alpha_heatmaps(alphas, chosen), f"alphas{index}", alt)
    return figure(svg, f"Weight, softmax(alpha), of each context length. Framed: chosen.{of_seed}")


def _evolution(index: int, alphas: Sequence[Mapping[str, plots.Weights]], of_seed: str) -> str:
    """The weights over the epochs of the search."""
    alt = f"Weight of each context length: over {len(alphas)} epochs of search, a panel a layer"
    svg = plots.inline_svg(plots.alpha_evolution(alphas), f"evolution{index}", alt)
    caption = "Weights after each epoch of the search, a panel a layer."
    caption += f" Thick blue: the heaviest length; orange: the runner-up; grey: the others.{of_seed}"
    return figure(svg, caption)


def _origin(classnames: Sequence[str], dataset: str, command: str) -> str:
    """Where all this comes from."""
    data, names = paragraph(f"Data: {dataset}."), ""
    if classnames:
        data = paragraph(f"Data: {dataset}, {len(classnames)} classes.")
        names = details("Class names", paragraph(", ".join(classnames)))
    return section("How this was made", data, names, code(command))


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


def _plain(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


BRANCHES = ("text", "vision")
METRICS = {"accuracy": "accuracy", "macro-F1": "macro_f1", "calibration error": "ece"}
"""Heading and key of every metric."""
METRICS_CAPTION = (
    "Accuracy, macro-F1 and expected calibration error in percent; the last is better when smaller."
)
