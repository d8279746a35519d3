"""The runs of a plan, on this machine or a cluster: each record stored as it comes, and a page of all."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from vlprompt.benchmark.own import encode_once
from vlprompt.benchmark.plan import Plan
from vlprompt.benchmark.protocols import RESULTS_VERSION, Cell, Record
from vlprompt.benchmark.report import write_bench_report
from vlprompt.benchmark.store import Store
from vlprompt.benchmark.workers import Outcome, run_in_processes
from vlprompt.progress import bar, say
from vlprompt.reports.stats import duration


def run_plan(plan: Plan, store: Store, workers: int, cluster: str = "") -> list[Cell]:
    """Run what is missing, each record stored as it comes; cells that failed are named and returned.

    The store is made once nothing but the runs themselves can fail.

    Raises:
        UserError: no such cluster; the results cannot be written.
    """
    if not plan.missing:
        return []
    outcomes = _outcomes(plan.missing, workers, cluster)
    store.open()
    if plan.missing[0].images:
        encode_once(plan)
    failed: list[Cell] = []
    total, start = len(plan.missing), time.monotonic()
    with bar("bench", total) as progress, closing(outcomes):
        task = progress.task_ids[0]
        for count, outcome in enumerate(outcomes, 1):
            if outcome.record is None:
                failed.append(outcome.cell)
                say(f"failed: {label(outcome.cell)}: {outcome.problem}")
            else:
                store.append(outcome.record)
                if progress.disable:
                    done = f"{count}/{total} {label(outcome.cell)}: {_accuracies(outcome.record)}"
                    say(done + _left(start, count, total))
            progress.update(task, advance=1, note=label(outcome.cell))
    return failed


def _outcomes(cells: Sequence[Cell], workers: int, cluster: str) -> Generator[Outcome]:
    if cluster:
        from vlprompt.benchmark.cluster import run_on_cluster

        return run_on_cluster(cells, cluster, workers)
    return run_in_processes(cells, min(workers, len(cells)))


def label(cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.method} on {cell.dataset}, {cell.protocol}, {cell.shots} shots, seed {cell.seed}"


def _left(start: float, done: int, total: int) -> str:
    """How long the others will take, by those that are done."""
    seconds = (time.monotonic() - start) / done * (total - done)
    return f"; about {duration([seconds])} left" if done < total else ""


def _accuracies(record: Record) -> str:
    shown = [f"{split} {m['accuracy']:.1f} %" for split, m in record["metrics"].items()]
    return ", ".join(shown) + f" ({duration([record['seconds']])})"


def report_on(store: Store, path: Path) -> None:
    """Write the page of all records that today's code would give again."""
    write_bench_report([r for r in store.read() if r["run"]["version"] == RESULTS_VERSION], path)


def records_of(plan: Plan, store: Store) -> list[Record]:
    """The records of a plan's runs, as far as they are finished."""
    keys = {cell.key for cell in plan.cells}
    return [record for record in store.read() if record["key"] in keys]
