"""A report of trained classifiers: one HTML page that needs no other file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import vlprompt
from vlprompt import plots
from vlprompt.lengths import Lengths
from vlprompt.plots import mean_std, number


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
    page = PAGE.format(
        title=escape(title), lead=_headline(groups), style=STYLE, body="\n".join(filter(None, sections))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, path)


# The parts of the page.


def _headline(groups: Groups) -> str:
    """The result in words."""
    ranked = sorted(_measured(groups, _first_split(groups)).items(), key=lambda item: -mean_std(item[1])[0])
    if not ranked:
        return (
            f"{escape(_enumerate(groups))}: accuracy was not measured, as no labelled test images were given."
        )
    (best, values), others = ranked[0], ranked[1:]
    run = groups[best][0]
    split = _first_split(groups)
    images = f"{int(run.measured[split]['n']):,} {escape(split)} images"
    seeds = f" over {len(values)} seeds" if len(values) > 1 else ""
    words = f"<strong>{escape(best)}</strong> gets <strong>{number(values, 1)} %</strong> of {images} right{seeds}"
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
        caption = f"Measured on: {escape(split)}."
        caption += " Bars are means, whiskers standard deviations, dots single seeds." if several else ""
        caption += " The dashed line is guessing." if chance else ""
        figures.append(_figure(svg, caption))
    return _section("Accuracy", *figures) if figures else ""


def _table(groups: Groups) -> str:
    """Method x metrics, and every single run where methods have several."""
    splits = _splits(groups) or [""]
    several = any(len(runs) > 1 for runs in groups.values())
    head = ["method", "measured on", *METRICS, "images", "seeds", "training time"]
    rows = [[title, *_metrics(runs, split)] for title, runs in groups.items() for split in splits]
    parts = [_html_table(head, rows, METRICS_CAPTION + (" Mean ± standard deviation." if several else ""))]
    if several:
        rows = [
            [run.title, str(run.seed), *_metrics([run], split)[:-2], duration([run.seconds])]
            for runs in groups.values()
            for run in runs
            for split in splits
        ]
        head = ["method", "seed", "measured on", *METRICS, "images", "training time"]
        parts.append(f"<details><summary>Every run</summary>{_html_table(head, rows)}</details>")
    return _section("Measurements", *parts)


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
    return _section("Learning curves", _figure(svg, caption))


def _searched(index: int, runs: Sequence[Run]) -> str:
    """Lengths of every layer, and the alphas that they come from, of one method."""
    with_lengths = [r for r in runs if r.lengths and (r.lengths.text or r.lengths.vision)]
    parts = [_lengths_table(with_lengths), _agreement(with_lengths)] if with_lengths else []
    searched = [(r.seed, alphas) for r in runs if (alphas := _alphas(r))]
    if searched:
        seed, alphas = searched[0]
        of_seed = f" Seed {seed}." if len(runs) > 1 else ""
        chosen = "; ".join(
            f"{branch} branch {_plain(max(range(len(w)), key=w.__getitem__) for w in weights)}"
            for branch, weights in alphas[-1].items()
        )
        heat = plots.inline_svg(
            plots.alpha_heatmaps(alphas[-1]), f"alphas{index}", f"Chosen length of each layer: {chosen}"
        )
        parts.append(
            _figure(heat, f"Weight, softmax(alpha), of each context length. Framed: chosen.{of_seed}")
        )
        lines = plots.inline_svg(
            plots.alpha_evolution(alphas),
            f"evolution{index}",
            f"Weight of each context length over {len(alphas)} epochs of search, a panel a layer",
        )
        parts.append(_figure(lines, f"Weights after each epoch of the search. Thick: chosen.{of_seed}"))
    return _section(f"{escape(runs[0].title)}: context lengths", *parts) if parts else ""


def _lengths_table(runs: Sequence[Run]) -> str:
    """Length and confidence of every layer, a row a branch and seed."""
    found = [run.lengths for run in runs if run.lengths]
    layers = max(len(branch) for lengths in found for branch in (lengths.text, lengths.vision))
    rows = []
    for branch in BRANCHES:
        for run in runs:
            cells = _length_cells(getattr(run.lengths, branch), getattr(run.lengths, f"{branch}_confidence"))
            cells += ["–"] * (layers - len(cells))
            rows.append([branch, str(run.seed), *cells, str(sum(getattr(run.lengths, branch)))])
    head = ["branch", "seed", *(f"layer {n + 1}" for n in range(layers)), "tokens"]
    caption = "Context length of each layer; 0 is no prompt."
    if any(lengths.text_confidence for lengths in found):
        caption += " In brackets: confidence, the softmax(alpha) of the chosen length."
    return _html_table(head, rows, caption)


def _length_cells(lengths: Sequence[int], confidence: Sequence[float]) -> list[str]:
    if not confidence:
        return [str(n) for n in lengths]
    return [f"{n} ({p:.2f})" for n, p in zip(lengths, confidence, strict=True)]


def _agreement(runs: Sequence[Run]) -> str:
    """How far the seeds found the same."""
    if len(runs) < 2:
        return ""
    sentences = []
    for branch in BRANCHES:
        columns = list(zip(*(getattr(run.lengths, branch) for run in runs), strict=True))
        shares = [Counter(column).most_common(1)[0][1] for column in columns]
        if columns:
            same = sum(share == len(runs) for share in shares)
            sentences.append(
                f"{branch} branch: all {len(runs)} seeds chose the same length in {same} of {len(columns)} layers "
                f"(most frequent choice, layer by layer: {_plain(shares)} of {len(runs)})"
            )
    return f"<p>Agreement of the seeds. {'; '.join(sentences)}.</p>"


def _origin(classnames: Sequence[str], dataset: str, command: str) -> str:
    """Where all this comes from."""
    names = f"<p>Data: {escape(dataset)}.</p>"
    if classnames:
        listed = ", ".join(map(escape, classnames))
        names = f"<p>Data: {escape(dataset)}, {len(classnames)} classes.</p>"
        names += f"<details><summary>Class names</summary><p>{listed}</p></details>"
    return _section(
        "How this was made",
        names,
        f'<pre tabindex="0"><code>{escape(command)}</code></pre>',
        f"<p>vlprompt {escape(vlprompt.__version__)}</p>",
    )


# What the parts are made of.


def duration(seconds: Sequence[float]) -> str:
    """Mean time, ± standard deviation where there are several: ``12.3 s``, ``4.1 ± 0.2 min``."""
    mean = mean_std(seconds)[0]
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if mean >= 2 * s), ("s", 1))
    return f"{number([s / size for s in seconds], 1)} {unit}"


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


def _enumerate(words: Iterable[str]) -> str:
    return ", ".join(words)


def _section(heading: str, *parts: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n" + "\n".join(filter(None, parts)) + "\n</section>"


def _figure(svg: str, caption: str) -> str:
    return f'<figure><div class="wide" tabindex="0">{svg}</div><figcaption>{caption}</figcaption></figure>'


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of plain texts, the first column as the rows' headers."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    caption = f"<caption>{escape(caption)}</caption>" if caption else ""
    table = f"<table>{caption}<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


BRANCHES = ("text", "vision")
METRICS = {"accuracy": "accuracy", "macro-F1": "macro_f1", "calibration error": "ece"}
"""Heading and key of every metric."""
METRICS_CAPTION = (
    "Accuracy, macro-F1 and expected calibration error in percent; the last is better when smaller."
)
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --soft: #58616b; --line: #d5dae0;
  --tint: #f4f6f8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e6e9ec; --soft: #a3adb7; --line: #39414a; --tint: #1e242a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); font-size: 1.25rem; }
.lead { margin: 0; font-size: 1.2rem; color: var(--soft); }
.lead strong { color: var(--ink); }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0; }
svg { display: block; width: 100%; height: auto; min-width: 38rem; }
svg text { font-family: system-ui, sans-serif !important; }
figcaption, caption { color: var(--soft); font-size: .875rem; text-align: left; }
figcaption { margin-top: .5rem; }
caption { padding-bottom: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
thead th { background: var(--tint); font-weight: 600; vertical-align: bottom; }
details { margin: 1rem 0; }
summary { cursor: pointer; }
pre { padding: .75rem 1rem; overflow-x: auto; background: var(--tint); border-radius: .4rem; }
code { font: .875rem/1.5 ui-monospace, monospace; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  svg { min-width: 0; }
  pre { white-space: pre-wrap; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
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
</body>
</html>
"""
