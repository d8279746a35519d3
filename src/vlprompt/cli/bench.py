"""The command ``vlprompt bench``: its flags, the question before a long run, what is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from tyro.conf import UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from vlprompt.cli.console import show
from vlprompt.errors import UserError
from vlprompt.progress import say

if TYPE_CHECKING:
    from vlprompt.benchmark.plan import Choice, Plan
    from vlprompt.benchmark.protocols import Cell, Protocol
    from vlprompt.benchmark.store import Store

ALL = "all"
ASK_BEYOND = 600
"""Seconds of estimated time beyond which a person at a terminal is asked first."""
T = TypeVar("T")


def _listed(kind: Callable[[str], T], metavar: str) -> PrimitiveConstructorSpec[tuple[T, ...]]:
    """How tyro reads ``--name a,b`` and ``--name a b``."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=lambda words: tuple(
            kind(part) for word in words for part in word.split(",") if part
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))] if value else [],
    )


Names = Annotated[tuple[str, ...], _listed(str, "NAME,...")]
Numbers = Annotated[tuple[int, ...], _listed(int, "N,...")]


def bench(
    *,
    suite: Literal["toy", "benchmark"] = "toy",
    methods: Names = ("zeroshot", "coop", "dpl"),
    datasets: Names = (),
    protocols: Names = ("few-shot",),
    shots: Numbers = (16,),
    seeds: Numbers = (1, 2, 3),
    changes: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="METHOD.NAME=VALUE")] = (),
    model: str = "toy",
    device: str = "auto",
    root: Path | None = None,
    out: Path = Path("out/bench"),
    workers: int = 0,
    cluster: str = "",
    yes: bool = False,
    plan: bool = False,
    force: bool = False,
    json: bool = False,
) -> None:
    """Compare methods on a suite of data sets; goes on where it was.

    Args:
        suite: 'toy' is built in; 'benchmark' is the 11 data sets of the field, below --root.
        methods: names ('vlprompt methods' lists them), own files my_method.py; 'all' stands for every method.
        datasets: for few-shot and base-to-new; all of the suite by default. The other protocols train on
            the suite's source.
        protocols: few-shot, base-to-new, cross-dataset, domain, or 'all'.
        shots: training images a class; protocols other than few-shot take the largest.
        seeds: of sampling and training.
        changes: a change to a method's settings, such as coop.epochs=20; may be given several times.
        model: frozen backbone: 'toy', 'toy-deep', a local folder or a hub id.
        device: auto, cpu, cuda, mps; it is recorded. auto is this machine's, also for a cluster.
        root: folder of the benchmark's data sets.
        out: folder for results.jsonl and report.html.
        workers: runs at the same time; 0 is one a core, or one a GPU.
        cluster: run on a Ray cluster at this address, or on one of this machine with 'local'.
        yes: never ask.
        plan: only show what would run.
        force: write over report.html whoever made it; results.jsonl is only ever added to.
        json: print one JSON object.
    """
    from vlprompt.benchmark.plan import Choice
    from vlprompt.benchmark.protocols import PROTOCOLS
    from vlprompt.benchmark.suites import SUITES
    from vlprompt.engine.devices import pick_device
    from vlprompt.methods import all_methods

    choice = Choice(
        suite=suite,
        methods=tuple(m for name in methods for m in (all_methods() if name == ALL else [name])),
        datasets=datasets or SUITES[suite].datasets,
        protocols=tuple(PROTOCOLS) if protocols == (ALL,) else cast("tuple[Protocol, ...]", protocols),
        shots=shots,
        seeds=seeds,
        changes=changes,
        model=model,
        device=device if cluster else pick_device(device).type,
        root=root,
    )
    done = run_choice(choice, out, workers, cluster, yes=yes, plan=plan, force=force, json=json)
    if done is None:
        return
    from vlprompt.benchmark.run import report_on

    report_on(done.store, done.report)
    if json:
        show(done.summary, True)
    else:
        print(f"results in {done.store.path}, report in {done.report}")
    if done.failed:
        raise SystemExit(1)


@dataclass(frozen=True)
class Done:
    """A plan that has run.

    Args:
        failed: its runs that could not be done.
        report: where the page goes.
    """

    plan: Plan
    store: Store
    failed: list[Cell]
    report: Path

    @property
    def summary(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        from vlprompt.benchmark.run import label

        failed = [label(cell) for cell in self.failed]
        paths = {"results": str(self.store.path), "report": str(self.report)}
        return _counts(self.plan) | {"failed": failed} | paths


def run_choice(
    choice: Choice,
    out: Path,
    workers: int,
    cluster: str = "",
    *,
    yes: bool,
    plan: bool,
    force: bool,
    json: bool,
) -> Done | None:
    """Run what is missing of a choice; None where it is only to be planned. Flags as those of ``bench``."""
    from vlprompt.benchmark.plan import make_plan
    from vlprompt.benchmark.results import check_planned
    from vlprompt.benchmark.run import run_plan
    from vlprompt.benchmark.store import RESULTS, Store
    from vlprompt.benchmark.workers import default_workers
    from vlprompt.files import check_targets

    if workers < 0:
        raise UserError(f"--workers {workers}: give a number of processes, or 0 for one a core")
    store, report, workers = Store(out / RESULTS), out / "report.html", workers or default_workers()
    planned = make_plan(choice, check_planned(store.read()), workers)
    if not plan:
        check_targets(report, force=force)
    _show_plan(planned)
    if plan:
        if json:
            show(_counts(planned) | {"seconds": round(planned.seconds)}, True)
        return None
    if not planned.cells:
        raise UserError(f"no run can be done: {'; '.join(planned.left_out)}")
    _ask(planned, yes)
    return Done(planned, store, run_plan(planned, store, workers, cluster), report)


def _counts(plan: Plan) -> dict[str, Any]:
    return {"runs": len(plan.cells), "done": len(plan.cells) - len(plan.missing)}


def _show_plan(plan: Plan) -> None:
    from vlprompt.reports.stats import duration

    done = len(plan.cells) - len(plan.missing)
    for line in plan.left_out:
        say(line)
    about = "about" if plan.measured else "at a rough guess"
    time = f", {about} {duration([plan.seconds])}" if plan.missing else ""
    say(f"{len(plan.cells)} runs, {done} done already, {len(plan.missing)} to do{time}")


def _ask(plan: Plan, yes: bool) -> None:
    """Let a person at a terminal stop a long benchmark before it starts."""
    if yes or plan.seconds < ASK_BEYOND or not sys.stdin.isatty():
        return
    if input("start? [Y/n] ").strip().lower() not in ("", "y", "yes"):
        raise KeyboardInterrupt
