"""Finished runs of a benchmark as its report reads them: labelled, in groups, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypedDict

from vlprompt.benchmark.suites import SUITES
from vlprompt.errors import UserError
from vlprompt.methods import get_method
from vlprompt.methods.lengths import Lengths
from vlprompt.typed import checked, hints

Series = dict[int, float]
"""One number a seed."""
HEADINGS = {
    "few-shot": "Few-shot classification",
    "base-to-new": "Base-to-new generalisation",
    "cross-dataset": "Cross-dataset transfer",
    "domain": "Domain generalisation",
}
"""Name and heading of every protocol, in the order of reports."""


SETTING = ("suite", "protocol", "model", "revision", "images")
"""What runs must share to stand in one section of a report."""
ELSEWHERE = ("device", "precision", "torch")
"""How a run was computed; where these differ, its last digits may."""
MEASURED = ("metrics", "seconds", "parameters", "command", "version", "finished")


class _Run(TypedDict):
    """What decides a run's numbers, as far as reports read it."""

    suite: str
    protocol: str
    model: str
    revision: str | None
    dataset: str
    method: str
    settings: dict[str, Any]
    preset: str
    augment: str
    shots: int
    seed: int


class _Measured(TypedDict):
    """What :func:`vlprompt.metrics.measure` gives."""

    accuracy: float
    macro_f1: float
    ece: float
    n: float


class _Record(TypedDict):
    """A record, as far as plans and reports read it."""

    key: str
    metrics: dict[str, _Measured]
    lengths: Lengths | None
    seconds: float
    parameters: int
    command: str
    version: str
    finished: str


class _Planned(TypedDict):
    """A record, as far as plans read it."""

    key: str
    seconds: float


def check_records(
    records: Iterable[Mapping[str, Any]], kind: Any = _Record, run: Any = _Run
) -> list[Mapping[str, Any]]:
    """Records of a store, each with all that is needed of it.

    Raises:
        UserError: one that lacks something or has it of another type.
    """
    records = list(records)
    for number, record in enumerate(records, 1):
        for part, needed in ((record, kind), (record.get("run"), run)):
            given = {k: part[k] for k in hints(needed) if k in part} if isinstance(part, dict) else part
            checked(given, needed, f"record {number} of the results")
    return records


def check_planned(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Records of a store, each with what a plan needs of it.

    Raises:
        UserError: one that lacks something or has it of another type.
    """
    return check_records(records, _Planned)


@dataclass(frozen=True)
class Result:
    """One finished run.

    Args:
        row: the method as tables name it, with what the user changed in its settings.
        changes: all that differs from its published settings.
        metrics: metrics by what was measured on.
        lengths: context length of every layer, where the method has them.
    """

    row: str
    method: str
    changes: str
    suite: str
    protocol: str
    dataset: str
    model: str
    revision: str
    images: str
    shots: int
    seed: int
    metrics: Mapping[str, Mapping[str, float]]
    lengths: Lengths | None
    seconds: float
    parameters: int
    command: str
    version: str
    finished: str

    @property
    def setting(self) -> tuple[str, ...]:
        """The values of :data:`SETTING`."""
        return self.suite, self.protocol, self.model, self.revision, self.images

    @property
    def part(self) -> tuple[int, str]:
        """Shots and, where one data set is trained on for all, its name: one part of a section."""
        return self.shots, self.dataset if self.protocol in ("cross-dataset", "domain") else ""


def read_results(records: Iterable[Mapping[str, Any]]) -> list[Result]:
    """Records of a results store, sorted by protocol and shots; of runs that were only computed elsewhere the
    latest.

    Raises:
        UserError: a record of an unknown protocol.
    """
    records = check_records(records)
    records = list({_alike(record["run"]): record for record in records}.values())
    named: dict[tuple[Any, ...], set[str]] = {}
    for record in records:
        if record["run"]["protocol"] not in HEADINGS:
            raise UserError(
                f"run '{record['key']}' is of the unknown protocol '{record['run']['protocol']}': "
                f"there are {', '.join(HEADINGS)}"
            )
        named.setdefault(_task(record["run"]), set()).update(record["run"]["settings"])
    results = [_result(record, named[_task(record["run"])]) for record in records]
    return sorted(results, key=lambda r: (list(HEADINGS).index(r.protocol), r.shots))


def _alike(run: Mapping[str, Any]) -> str:
    """What is the same for runs that another machine, or another torch, did again."""
    return json.dumps({k: v for k, v in run.items() if k not in ELSEWHERE}, sort_keys=True)


def _result(record: Mapping[str, Any], named: set[str]) -> Result:
    run = record["run"]
    file = {"file": run["own_method"][:8]} if run.get("own_method") else {}
    own = ", ".join(f"{key}={value}" for key, value in (_own_changes(run, named) | file).items())
    extra = {"preset": run["preset"], "augment": run["augment"]}
    changes = run["settings"] | file | {key: v for key, v in extra.items() if v not in ("", "auto")}
    lengths = {key: tuple(values) for key, values in (record["lengths"] or {}).items()}
    return Result(
        row=method_title(run["method"]) + (f" ({own})" if own else ""),
        changes=", ".join(f"{key}={value}" for key, value in changes.items()),
        lengths=Lengths(**lengths) if lengths else None,
        **{key: run.get(key, "") for key in (*SETTING, "method", "dataset", "shots", "seed")},
        **{key: record[key] for key in MEASURED},
    )


def _task(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Runs of the same one differ in settings and seed only."""
    return tuple(run.get(key, "") for key in (*SETTING, "shots", "method", "dataset"))


def _own_changes(run: Mapping[str, Any], named: set[str]) -> dict[str, Any]:
    """Settings that are not what the suite gives to every run of this method on this data set.

    Args:
        named: settings that runs of the same task changed; one of the suite's that is missing in
            ``run`` only was set back to its published value.
    """
    which = run["method"], run["dataset"], run["preset"]
    suite = SUITES[run["suite"]].settings_for(*which) if run["suite"] in SUITES else {}
    own = {key: value for key, value in run["settings"].items() if key not in suite or suite[key] != value}
    return own | {key: "published" for key in suite if key in named - set(run["settings"])}


def method_title(name: str) -> str:
    """The method's title; its name, where it is a file that is not there any more."""
    try:
        return get_method(name).title
    except UserError:
        return name


def grouped(results: Iterable[Result], key: str) -> dict[Any, list[Result]]:
    """Results by an attribute, in the order of first appearance."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(getattr(result, key), []).append(result)
    return groups


def missing(results: Sequence[Result]) -> str:
    """What keeps one part of a section from being complete, in a sentence; empty where nothing does."""
    seeds = sorted(grouped(results, "seed"))
    done = {(r.row, r.dataset, r.seed) for r in results}
    gaps = []
    for row in grouped(results, "row"):
        for dataset in grouped(results, "dataset"):
            gone = [seed for seed in seeds if (row, dataset, seed) not in done]
            if gone:
                which = "" if len(gone) == len(seeds) else f" (seed {', '.join(map(str, gone))})"
                gaps.append(f"{row} on {dataset}{which}")
    sentences = []
    if gaps:
        more = f" and {len(gaps) - 8} more" if len(gaps) > 8 else ""
        sentences.append(f"Not run yet: {'; '.join(gaps[:8])}{more}.")
    if len(seeds) == 1:
        sentences.append(f"One seed only (seed {seeds[0]}), so there are no deviations.")
    return " ".join(sentences)


def average(columns: Sequence[Series]) -> Series:
    """Mean over the columns, of every seed that all of them have."""
    seeds = [seed for seed in columns[0] if all(seed in column for column in columns)] if columns else []
    return {seed: fmean(column[seed] for column in columns) for seed in seeds}


def harmonic_mean(base: Series, new: Series) -> Series:
    """H of every seed that both have."""
    both = {seed: (base[seed], new[seed]) for seed in base if seed in new}
    return {seed: 2 * b * n / (b + n) if b + n else 0.0 for seed, (b, n) in both.items()}
