"""Tables of a benchmark in the form that papers use: what stands in them, not how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlprompt.benchmark.results import (
    HEADINGS,
    Result,
    Series,
    average,
    grouped,
    harmonic_mean,
    method_title,
)
from vlprompt.benchmark.suites import OWN
from vlprompt.reports.stats import mean_std

PUBLISHED_MODEL = "openai/clip-vit-base-patch16"
BASE_NEW_H = ("base", "new", "H")
PUBLISHED = {
    "zeroshot": (69.34, 74.22, 71.70),
    "coop": (82.69, 63.22, 71.66),
    "cocoop": (80.47, 71.69, 75.83),
    "kgcoop": (80.73, 73.60, 77.00),
    "prograd": (82.48, 70.75, 76.16),
    "maple": (82.28, 75.14, 78.55),
    "promptsrc": (84.26, 76.10, 79.97),
    "tcp": (84.13, 75.36, 79.51),
    "mma": (83.20, 76.80, 79.87),
    "coprompt": (84.00, 77.23, 80.48),
    "mmrl": (85.68, 77.16, 81.20),
    "atprompt": (82.68, 68.04, 74.65),
    "maple+atprompt": (82.98, 75.76, 79.21),
    "promptkd": (86.96, 80.73, 83.73),
}
"""Base, new and H of the papers or their authors' releases, 16 shots, averages over 11 data sets."""


@dataclass(frozen=True)
class Quantity:
    """Something to fill tables with; ``sign`` is 1 where more is better, -1 where less is."""

    key: str
    title: str
    sign: int = 1
    digits: int = 2


QUANTITIES = {  # in the order of reports, accuracy first
    "accuracy": Quantity("accuracy", "Accuracy (%)"),
    "macro_f1": Quantity("macro_f1", "Macro-F1 (%)"),
    "ece": Quantity("ece", "Expected calibration error (%, less is better)", sign=-1),
    "seconds": Quantity("seconds", "Time of training and testing (s)", sign=-1, digits=1),
}


@dataclass(frozen=True)
class Entry:
    """A number of every seed, and the commands that made them; none for averages and papers' numbers."""

    series: Series
    commands: tuple[str, ...] = ()

    @property
    def values(self) -> list[float]:
        """The numbers."""
        return list(self.series.values())


@dataclass(frozen=True)
class Table:
    """Methods by columns.

    Args:
        rows: an entry a column, by the method's name.
        published: number of last columns that come from papers; they do not compete.
        note: what to know when reading it.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, list[Entry]]
    quantity: Quantity
    published: int = 0
    note: str = ""

    def best(self, column: int) -> set[str]:
        """Rows with the best mean as it is shown, ties too; none where there is nothing to compare."""
        if column >= len(self.columns) - self.published:
            return set()
        sign, digits = self.quantity.sign, self.quantity.digits
        means = {
            row: sign * round(mean_std(entries[column].values)[0], digits)
            for row, entries in self.rows.items()
            if entries[column].values
        }
        if len(means) < 2:
            return set()
        return {row for row, mean in means.items() if mean == max(means.values())}


SOURCES = ("source", "test")
"""What the data set that was trained on is called among the data that was tested on."""


def part_tables(results: Sequence[Result], quantity: Quantity) -> list[Table]:
    """The tables of one part of a section (see :attr:`Result.part`), the most important first."""
    protocol = results[0].protocol
    if quantity.key == "seconds" or protocol == "few-shot":
        return [_by_dataset(results, quantity)]
    return _base_to_new(results, quantity) if protocol == "base-to-new" else [_by_target(results, quantity)]


def part_title(results: Sequence[Result]) -> str:
    """What all tables of a part have in common: ``16 shots``, ``trained on imagenet, 16 shots``."""
    shots, source = results[0].part
    return (f"trained on {source}, " if source else "") + f"{shots} shot{'' if shots == 1 else 's'}"


def section_title(results: Sequence[Result]) -> str:
    """Protocol, suite and backbone."""
    suite, protocol, model, revision, _ = results[0].setting
    backbone = f"{model}@{revision[:8]}" if revision else model
    what = f"images of {results[0].dataset}" if suite == OWN else f"suite {suite}"
    return f"{HEADINGS[protocol]}: {what}, backbone {backbone}"


def _by_dataset(results: Sequence[Result], quantity: Quantity) -> Table:
    """A column a data set, and the average."""
    datasets = list(grouped(results, "dataset"))
    rows = {
        row: [_entry(own, "test", quantity, dataset) for dataset in datasets]
        for row, own in grouped(results, "row").items()
    }
    return _table(part_title(results), datasets, rows, quantity, averaged=len(datasets))


def _by_target(results: Sequence[Result], quantity: Quantity) -> Table:
    """The data that was trained on, all other data that was tested on, and the average of the others."""
    splits = sorted({split: None for r in results for split in r.metrics}, key=lambda s: s not in SOURCES)
    targets = [split for split in splits if split not in SOURCES]
    rows = {
        row: [_entry(own, split, quantity) for split in splits]
        for row, own in grouped(results, "row").items()
    }
    columns = [split if split in targets else f"{results[0].dataset} (source)" for split in splits]
    return _table(part_title(results), columns, rows, quantity, averaged=len(targets))


def _table(
    title: str, columns: Sequence[str], rows: dict[str, list[Entry]], quantity: Quantity, averaged: int
) -> Table:
    """A table with the average of its last columns, where there are several of these."""
    if averaged < 2:
        return Table(title, tuple(columns), rows, quantity)
    rows = {row: [*entries, _average(entries[-averaged:])] for row, entries in rows.items()}
    return Table(title, (*columns, f"average of {averaged}"), rows, quantity)


def _base_to_new(results: Sequence[Result], quantity: Quantity) -> list[Table]:
    """The block of the average, and a block for each data set: base, new and, of accuracies, H."""
    columns = BASE_NEW_H if quantity.key == "accuracy" else BASE_NEW_H[:2]
    datasets = list(grouped(results, "dataset"))
    rows = grouped(results, "row")
    pairs = {
        (row, dataset): [_entry(own, split, quantity, dataset) for split in BASE_NEW_H[:2]]
        for row, own in rows.items()
        for dataset in datasets
    }
    blocks = []
    for dataset in datasets:
        block = {row: _with_h(pairs[row, dataset], columns) for row in rows}
        blocks.append(Table(f"{dataset}, {part_title(results)}", columns, block, quantity))
    if len(datasets) < 2:
        return blocks
    averages = {}
    for row in rows:
        base, new = zip(*(pairs[row, dataset] for dataset in datasets), strict=True)
        # H of the averages, not the average of H: so do the papers.
        averages[row] = _with_h([_average(base), _average(new)], columns)
    title = f"average of {len(datasets)} data sets, {part_title(results)}"
    return [_with_published(Table(title, columns, averages, quantity), results), *blocks]


def _with_h(base_new: Sequence[Entry], columns: Sequence[str]) -> list[Entry]:
    """Base and new, and H where it is a column."""
    base, new = base_new
    return [base, new, Entry(harmonic_mean(base.series, new.series), base.commands)][: len(columns)]


def _with_published(table: Table, results: Sequence[Result]) -> Table:
    """The numbers of papers beside ours, where the backbone and the shots are theirs."""
    if results[0].model != PUBLISHED_MODEL or results[0].shots != 16 or table.quantity.key != "accuracy":
        return table
    # A row with changed settings has another name than its method, and no number of a paper.
    methods = {r.row: r.method for r in results if r.row == method_title(r.method)}
    nothing = [Entry({})] * len(BASE_NEW_H)
    rows = {row: [*entries, *_published(methods.get(row, ""))] for row, entries in table.rows.items()}
    others = {method_title(name): name for name in PUBLISHED if name not in methods.values()}
    rows |= {title: [*nothing, *_published(name)] for title, name in others.items()}
    columns = (*table.columns, *(f"published {column}" for column in BASE_NEW_H))
    own = len(grouped(results, "dataset"))
    note = (
        "Published: averages over 11 data sets, from the papers; PromptKD's with all training images, "
        f"without labels, and a larger teacher. Measured here: average over {own}."
    )
    return Table(table.title, columns, rows, table.quantity, len(BASE_NEW_H), note)


def _published(method: str) -> list[Entry]:
    numbers = PUBLISHED.get(method)
    return [Entry({0: n}) for n in numbers] if numbers else [Entry({})] * len(BASE_NEW_H)


def _entry(results: Iterable[Result], split: str, quantity: Quantity, dataset: str = "") -> Entry:
    """The numbers of one method: on one data set, where it is given, and one split."""
    own = [r for r in results if dataset in ("", r.dataset)]
    if quantity.key == "seconds":
        series = {r.seed: r.seconds for r in own}
    else:
        series = {r.seed: r.metrics[split][quantity.key] for r in own if split in r.metrics}
    return Entry(series, tuple(dict.fromkeys(r.command for r in own if r.seed in series)))


def _average(entries: Sequence[Entry]) -> Entry:
    return Entry(average([entry.series for entry in entries]))


def capitalized(text: str) -> str:
    """The first letter large, all others as they are."""
    return text[:1].upper() + text[1:]
