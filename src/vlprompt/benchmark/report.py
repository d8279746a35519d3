"""The report on a benchmark's results store: one HTML page with all tables and curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vlprompt.benchmark.results import Result, Series, average, grouped, missing, read_results
from vlprompt.benchmark.standings import HEAD, NOTE, cells, standings, verdict
from vlprompt.benchmark.suites import OWN
from vlprompt.benchmark.tables import (
    QUANTITIES,
    Entry,
    Table,
    capitalized,
    part_tables,
    part_title,
    section_title,
)
from vlprompt.reports import plots
from vlprompt.reports.lengths import agreement, lengths_table
from vlprompt.reports.page import (
    Html,
    blocks,
    code,
    details,
    figure,
    paragraph,
    section,
    subsection,
    table,
    write_page,
)
from vlprompt.reports.stats import mean_std, number
from vlprompt.reports.svg import inline_svg

COUNTED = {"method": "method", "dataset": "data set", "seed": "seed", "model": "backbone"}


def write_bench_report(
    records: Iterable[Mapping[str, Any]], path: Path, title: str = "Benchmark", command: str = ""
) -> None:
    """Write the page; the file appears whole or not at all.

    Args:
        records: of a results store, which may be incomplete or empty.
        command: what trains the method to take.
    """
    results = read_results(records)
    sections = [_section(index, own) for index, own in enumerate(grouped(results, "setting").values())]
    if command:
        sections.append(section("Train the method to take", code(command)))
    if results:
        sections += [_settings(results), _origin(results)]
    write_page(path, title, _lead(results), sections)


def _lead(results: Sequence[Result]) -> str:
    """What the store holds, in a sentence."""
    if not results:
        return "There is no finished run in the store yet."
    counts = ", ".join(_count(len(grouped(results, key)), word) for key, word in COUNTED.items())
    protocols = ", ".join(grouped(results, "protocol"))
    return f"<strong>{_count(len(results), 'finished run')}</strong>: {counts}; {escape(protocols)}."


def _count(number_of: int, word: str) -> str:
    return f"{number_of:,} {word}{'' if number_of == 1 else 's'}"


def _section(index: int, results: Sequence[Result]) -> str:
    """One protocol with one backbone."""
    parts = list(grouped(results, "part").values())
    curves, folded = "", []
    if results[0].protocol == "few-shot" and len(parts) > 1:
        curves = _curves(index, results)
        # The most shots in full, as papers do; the others can be opened.
        *fewer, most = parts
        parts, folded = [most], [details(_heading(part), _part(part)) for part in reversed(fewer)]
    commands = details("Commands of all runs", _commands(results))
    return section(section_title(results), curves, *map(_part, parts), *folded, commands)


def _heading(results: Sequence[Result]) -> str:
    return capitalized(part_title(results))


def _part(results: Sequence[Result]) -> str:
    """The same shots, and the same source where there is one."""
    if results[0].suite == OWN:
        return _compared(results)
    accuracy, *others = (part_tables(results, quantity) for quantity in QUANTITIES.values())
    parts = [
        subsection(_heading(results)),
        paragraph(" ".join(filter(None, [_ranking(accuracy[0]), missing(results)]))),
        _tables(accuracy),
        *(details(tables[0].quantity.title, _tables(tables)) for tables in others),
        _searched(results),
    ]
    return "\n".join(filter(None, parts))


def _compared(results: Sequence[Result]) -> str:
    """Methods on the user's own images: all quantities in one table, and which method to take."""
    ranked = standings(results)
    rows = [cells(standing) for standing in ranked]
    top = [
        subsection(_heading(results)),
        paragraph(" ".join(filter(None, [verdict(ranked), missing(results)]))),
    ]
    return "\n".join([*top, table(HEAD, rows, NOTE), _searched(results)])


def _ranking(table: Table) -> str:
    """The two best of the column that counts, in a sentence; nothing where there are not two."""
    column = len(table.columns) - table.published - 1
    entries = [(row, entries[column].values) for row, entries in table.rows.items() if entries[column].values]
    ranked = sorted(entries, key=lambda entry: -mean_std(entry[1])[0])
    if len(ranked) < 2:
        return ""
    (first, best), (second, next_best) = ranked[:2]
    digits = table.quantity.digits
    within = mean_std(best)[0] - mean_std(next_best)[0] < max(mean_std(best)[1], mean_std(next_best)[1])
    return (
        f"Highest accuracy ({table.columns[column]}): {first}, {number(best, digits)} %, then {second}, "
        f"{number(next_best, digits)} %" + (", a lead within the spread of the seeds." if within else ".")
    )


def _tables(tables: Sequence[Table]) -> str:
    """The most important table, and the others side by side below it."""
    return _table(tables[0]) + blocks(map(_table, tables[1:]))


def _table(shown: Table) -> str:
    """A table as HTML, the best of each column in bold, each number with its commands as a tooltip."""
    head, digits = ["method", *shown.columns], shown.quantity.digits
    rows = [
        [row, *(_entry(entry, digits, row in shown.best(n)) for n, entry in enumerate(entries))]
        for row, entries in shown.rows.items()
    ]
    caption = f"{capitalized(shown.title)}. {shown.quantity.title}. {shown.note}".strip()
    return table(head, rows, caption)


def _entry(entry: Entry, digits: int, best: bool) -> Html:
    mean, *deviation = number(entry.values, digits).split(" ± ")
    shown = f"<strong>{mean}</strong>" if best else mean
    shown += "".join(f"<br><small>± {d}</small>" for d in deviation)
    tip = escape("\n".join(entry.commands))
    return Html(f'<span title="{tip}">{shown}</span>' if tip else shown)


def _curves(index: int, results: Sequence[Result]) -> str:
    """Accuracy against shots, a panel a data set and one for their average."""
    datasets = list(grouped(results, "dataset"))
    runs: dict[tuple[str, int], dict[str, Series]] = {}
    for r in results:
        by_dataset = runs.setdefault((r.row, r.shots), {name: {} for name in datasets})
        by_dataset[r.dataset][r.seed] = r.metrics["test"]["accuracy"]
    panels: dict[str, dict[str, dict[int, list[float]]]] = {}
    for (row, shots), by_dataset in runs.items():
        all_series = by_dataset
        if len(datasets) > 1:
            all_series = {f"average of {len(datasets)}": average(list(by_dataset.values())), **by_dataset}
        for panel, series in all_series.items():
            curves = panels.setdefault(panel, {})
            if series:
                curves.setdefault(row, {})[shots] = list(series.values())
    methods = ", ".join(grouped(results, "row"))
    alt = f"Accuracy against shots: {methods}, on {', '.join(panels)}; the numbers are in the tables below"
    svg = inline_svg(plots.few_shot_curves(panels), f"curves{index}", alt)
    caption = "Mean accuracy over the seeds; bands are standard deviations."
    if len(datasets) > 1:
        caption += " The average is drawn where a method has run on all data sets."
    return figure(svg, caption)


def _searched(results: Sequence[Result]) -> str:
    """The context lengths that a search found, and how far its seeds agree."""
    searched = [r for r in results if r.lengths and r.lengths.text_confidence + r.lengths.vision_confidence]
    parts = []
    for row, own in grouped(searched, "row").items():
        for dataset, seeds in grouped(own, "dataset").items():
            lengths = {r.seed: r.lengths for r in sorted(seeds, key=lambda r: r.seed) if r.lengths}
            parts += [subsection(f"{row} on {dataset}"), lengths_table(lengths), agreement(lengths)]
    return details("Searched context lengths", "\n".join(parts)) if parts else ""


def _commands(results: Sequence[Result]) -> str:
    """Every command once, below what it made."""
    lines = []
    for command, made in grouped(results, "command").items():
        what = [", ".join(map(str, grouped(made, key))) for key in ("row", "dataset", "shots", "seed")]
        lines += ["# {} on {}; shots {}; seed {}".format(*what), command]
    return code("\n".join(lines))


def _settings(results: Sequence[Result]) -> str:
    """What was changed in each method's published settings, and how much it learns."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for r in results:
        rows.setdefault((r.row, r.changes, r.model), []).append(r.parameters)
    cells = [
        [*key, f"{min(n):,}" if min(n) == max(n) else f"{min(n):,} to {max(n):,}"] for key, n in rows.items()
    ]
    head = ["method", "differs from the defaults in", "backbone", "learned parameters"]
    return section("Methods", table(head, cells))


def _origin(results: Sequence[Result]) -> str:
    finished = sorted(r.finished for r in results)
    versions = ", ".join(grouped(results, "version"))
    return section(
        "How this was made",
        paragraph(
            f"Runs finished between {finished[0]} and {finished[-1]}, with vlprompt {versions}. "
            "Every number of one data set has the commands that made it as a tooltip, an average those of "
            "its data sets; all commands stand below the tables."
        ),
    )
