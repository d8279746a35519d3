"""The benchmark: every method on every data set with every seed, in parallel, to a results file and a report.

A plan of runs is made first; runs that the results file has are skipped, so the same command after a
kill does only what is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import statistics
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from tyro.conf import UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from vlprompt.benchmark.protocols import (
    FROM_SOURCE,
    NEW_CLASSES,
    PROTOCOLS,
    RESULTS_VERSION,
    Cell,
    Protocol,
    Record,
    preset_of,
)
from vlprompt.benchmark.store import Store
from vlprompt.benchmark.suites import SUITES, Settings
from vlprompt.benchmark.workers import Outcome, default_workers, run_in_processes
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.methods import all_methods, get_method
from vlprompt.progress import bar, console
from vlprompt.reports.stats import duration

ALL = "all"
RESULTS, REPORT = "results.jsonl", "report.html"
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
    root: Path | None = None,
    out: Path = Path("out/bench"),
    workers: int = 0,
    cluster: str = "",
    yes: bool = False,
    plan: bool = False,
    json: bool = False,
) -> None:
    """Compare methods on a suite of data sets; goes on where it was.

    Args:
        suite: 'toy' is built in; 'benchmark' is the 11 data sets of the field, below --root.
        methods: names ('vlprompt methods' lists them), own files my_method.py, or 'all'.
        datasets: for few-shot and base-to-new; all of the suite by default. The other protocols train on
            the suite's source.
        protocols: few-shot, base-to-new, cross-dataset, domain, or 'all'.
        shots: training images a class; protocols other than few-shot take the largest.
        seeds: of sampling and training.
        changes: a change to a method's settings, such as coop.epochs=20; may be given several times.
        model: frozen backbone: 'toy', a local folder or a hub id.
        root: folder of the benchmark's data sets.
        out: folder for results.jsonl and report.html.
        workers: runs at the same time; 0 is one a core, or one a GPU.
        cluster: run on a Ray cluster at this address, or on one of this machine with 'local'.
        yes: never ask.
        plan: only show what would run.
        json: print one JSON object.
    """
    if workers < 0:
        raise UserError(f"--workers {workers}: give a number of processes, or 0 for one a core")
    choice = Choice(
        suite=suite,
        methods=tuple(all_methods()) if methods == (ALL,) else methods,
        datasets=datasets or SUITES[suite].datasets,
        protocols=tuple(PROTOCOLS) if protocols == (ALL,) else cast(tuple[Protocol, ...], protocols),
        shots=shots,
        seeds=seeds,
        changes=changes,
        model=model,
        root=root,
    )
    store, workers = Store(out / RESULTS), workers or default_workers()
    planned = make_plan(choice, store.read(), workers)
    _show_plan(planned)
    summary = {"runs": len(planned.cells), "done": len(planned.cells) - len(planned.missing)}
    if plan:
        if json:
            _print_json(summary | {"seconds": round(planned.seconds)})
        return
    _ask(planned, yes)
    store.open()
    failed = run_plan(planned, store, workers, cluster)
    report = _write_report(store, out / REPORT)
    if json:
        paths = {"results": str(store.path), "report": str(report)}
        _print_json(summary | {"failed": [label(cell) for cell in failed]} | paths)
    else:
        print(f"results in {store.path}, report in {report}")
    if failed:
        raise SystemExit(1)


# The plan.


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to be compared; every combination is one run. See :func:`bench`."""

    suite: str
    methods: Sequence[str]
    datasets: Sequence[str]
    protocols: Sequence[Protocol]
    shots: Sequence[int]
    seeds: Sequence[int]
    changes: Sequence[str] = ()
    model: str = "toy"
    root: Path | None = None


@dataclass(frozen=True)
class Plan:
    """Runs of a choice.

    Args:
        cells: all of them.
        missing: those that are not recorded yet.
        seconds: estimated time of the missing ones.
        left_out: what cannot be done at all, a line each.
    """

    cells: list[Cell]
    missing: list[Cell]
    seconds: float
    left_out: list[str] = field(default_factory=list)


def make_plan(choice: Choice, records: Sequence[Record], workers: int) -> Plan:
    """The runs of a choice, those that are missing from records, and how long these will take.

    Raises:
        UserError: unknown names or settings, no such model, no root.
    """
    _check(choice)
    encoder = Encoder(load_backbone(choice.model))
    changes = parse_changes(choice.changes, choice.methods)
    cells: list[Cell] = []
    left_out: list[str] = []
    for protocol in dict.fromkeys(choice.protocols):
        for method in dict.fromkeys(choice.methods):
            made = list(_cells(choice, protocol, method, changes.get(method, {}), encoder))
            problem = _refusal(made[0], encoder) if protocol in NEW_CLASSES and made else ""
            if problem:
                left_out.append(f"{method} is left out of {protocol}: {problem}")
            else:
                cells += made
    cells.sort(key=lambda cell: cell.seed)  # every method has a first number early
    recorded = {record["key"] for record in records}
    missing = [cell for cell in cells if cell.key not in recorded]
    return Plan(cells, missing, _estimate(missing, records) / workers, left_out)


def _check(choice: Choice) -> None:
    suite = SUITES[choice.suite]
    for what, given, known in (
        ("data set", choice.datasets, suite.datasets),
        ("protocol", choice.protocols, PROTOCOLS),
    ):
        for name in given:
            if name not in known:
                raise UserError(
                    f"unknown {what} '{name}' in suite '{choice.suite}': there are {', '.join(known)}"
                )
    for option in ("methods", "shots", "seeds"):
        if not getattr(choice, option):
            raise UserError(f"--{option} is empty: give one or more")
    if min(choice.shots) < 1:
        raise UserError(f"--shots {min(choice.shots)}: give 1 or more images a class")
    if suite.needs_root and choice.root is None:
        raise UserError(f"suite '{choice.suite}' needs its images: give --root FOLDER")


def _cells(
    choice: Choice, protocol: Protocol, method: str, changes: Settings, encoder: Encoder
) -> Iterator[Cell]:
    """Cells of one method in one protocol."""
    suite, kind = SUITES[choice.suite], get_method(method)
    preset = preset_of(protocol, kind.presets)
    published = kind.preset(preset)
    datasets = (suite.source,) if protocol in FROM_SOURCE else tuple(dict.fromkeys(choice.datasets))
    for shots in sorted(set(choice.shots)) if protocol == "few-shot" else [max(choice.shots)]:
        basis = kind.settings_for(shots, **published)
        for dataset in datasets:
            usual = kind.settings_for(shots, **published | suite.settings_for(method, dataset))
            wanted = dataclasses.replace(usual, **changes)
            for seed in dict.fromkeys(choice.seeds):
                cell = Cell(
                    suite=choice.suite,
                    protocol=protocol,
                    dataset=dataset,
                    method=method,
                    settings=_difference(wanted, basis),
                    preset=preset,
                    model=choice.model,
                    revision=encoder.backbone.revision,
                    shots=shots,
                    seed=seed,
                    augment=suite.augment,
                    own_method=_digest(method),
                    root=choice.root,
                )
                yield dataclasses.replace(cell, command=_command(cell, _difference(wanted, usual)))


def _difference(settings: Any, other: Any) -> Settings:
    """Values of ``settings`` that are not those of ``other``."""
    theirs = dataclasses.asdict(other)
    return {name: v for name, v in dataclasses.asdict(settings).items() if v != theirs[name]}


def _digest(method: str) -> str:
    """What the user's own files among a method's parts hold."""
    files = [Path(part) for part in method.split("+") if part.endswith(".py")]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16] if files else ""


def _command(cell: Cell, changes: Settings) -> str:
    """The command that runs one cell anew."""
    words = ["vlprompt", "bench", "--suite", cell.suite, "--protocols", cell.protocol]
    words += [] if cell.protocol in FROM_SOURCE else ["--datasets", cell.dataset]
    words += ["--methods", cell.method, "--shots", str(cell.shots), "--seeds", str(cell.seed)]
    words += ["--model", cell.model] + (["--root", str(cell.root)] if cell.root else [])
    for name, value in changes.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += ["--set", f"{cell.method}.{name}={text}"]
    return shlex.join([*words, "--out", "out/again"])


def _refusal(cell: Cell, encoder: Encoder) -> str:
    """Why a method cannot classify into classes that it was not trained on; "" where it can."""
    kind = get_method(cell.method)
    published = kind.preset(cell.preset)
    settings = kind.settings_for(cell.shots, **published | cell.settings)
    method = kind(encoder, ("cat", "dog"), settings)
    try:
        method.set_classes(("car", "plane", "ship"))
    except UserError as error:
        return str(error)
    return ""


def _estimate(missing: Sequence[Cell], records: Sequence[Record]) -> float:
    """Seconds of runs one after the other, from recorded runs of the same kind where there are some."""
    known: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        run = record["run"]
        for kind in _kinds(run):
            known.setdefault(kind, []).append(record["seconds"])
    medians = {kind: statistics.median(values) for kind, values in known.items()}
    return sum(
        next((medians[kind] for kind in _kinds(cell.run) if kind in medians), SUITES[cell.suite].seconds)
        for cell in missing
    )


def _kinds(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Runs that take about as long, the most alike first."""
    names = ["suite", "model", "method", "protocol", "dataset"]
    return [tuple(str(run[name]) for name in names[:count]) for count in (5, 4, 3)]


# Settings from the command line.


def parse_changes(changes: Sequence[str], methods: Sequence[str]) -> dict[str, Settings]:
    """``coop.epochs=20`` and others -> settings by method.

    Raises:
        UserError: not of this form; no such method or setting; a value of another type.
    """
    found: dict[str, Settings] = {}
    for change in changes:
        left, equals, text = change.partition("=")
        method, dot, name = left.rpartition(".")
        if not (equals and dot):
            raise UserError(f"--set '{change}': write METHOD.NAME=VALUE, such as coop.epochs=20")
        if method not in methods:
            raise UserError(f"--set '{change}': '{method}' is not among --methods {','.join(methods)}")
        hints = typing.get_type_hints(get_method(method).Settings)
        if name not in hints:
            raise UserError(
                f"method '{method}' has no setting '{name}' (--set '{change}'): "
                f"there are {', '.join(sorted(hints))}"
            )
        try:
            found.setdefault(method, {})[name] = _value(hints[name], text)
        except (ValueError, KeyError) as error:
            wanted = getattr(hints[name], "__name__", None) or str(hints[name])
            raise UserError(f"--set '{change}': '{text}' is no {wanted}: give one") from error
    return found


def _value(hint: Any, text: str) -> Any:
    """A setting's value from text: numbers, words, true or false, or numbers with commas."""
    if hint is bool:
        return {"true": True, "false": False}[text.lower()]
    if typing.get_origin(hint) is tuple:
        return tuple(_value(typing.get_args(hint)[0], part) for part in text.split(",") if part)
    if typing.get_origin(hint) is Literal:
        return {choice: choice for choice in typing.get_args(hint)}[text]
    return hint(text)


# The run.


def run_plan(plan: Plan, store: Store, workers: int, cluster: str = "") -> list[Cell]:
    """Run what is missing, each record stored as it comes; cells that failed are named and returned.

    Raises:
        UserError: no such cluster; the results cannot be written.
    """
    if not plan.missing:
        return []
    failed: list[Cell] = []
    total = len(plan.missing)
    with bar("bench", total) as progress, closing(_outcomes(plan.missing, workers, cluster)) as outcomes:
        task = progress.task_ids[0]
        for count, outcome in enumerate(outcomes, 1):
            if outcome.record is None:
                failed.append(outcome.cell)
                _say(f"failed: {label(outcome.cell)}: {outcome.problem}")
            else:
                store.append(outcome.record)
                if progress.disable:
                    _say(f"{count}/{total} {label(outcome.cell)}: {_accuracies(outcome.record)}")
            progress.update(task, advance=1, note=label(outcome.cell))
    return failed


def _outcomes(cells: Sequence[Cell], workers: int, cluster: str) -> typing.Generator[Outcome]:
    if cluster:
        from vlprompt.benchmark.cluster import run_on_cluster

        return run_on_cluster(cells, cluster, workers)
    return run_in_processes(cells, min(workers, len(cells)))


def label(cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.method} on {cell.dataset}, {cell.protocol}, {cell.shots} shots, seed {cell.seed}"


def _accuracies(record: Record) -> str:
    shown = [f"{split} {m['accuracy']:.1f} %" for split, m in record["metrics"].items()]
    return ", ".join(shown) + f" ({duration([record['seconds']])})"


def _write_report(store: Store, path: Path) -> Path:
    """A report of all records that today's code would give again."""
    from vlprompt.benchmark.report import write_bench_report

    write_bench_report([r for r in store.read() if r["run"]["version"] == RESULTS_VERSION], path)
    return path


# What is shown.


def _show_plan(plan: Plan) -> None:
    done = len(plan.cells) - len(plan.missing)
    for line in plan.left_out:
        _say(line)
    time = f", about {duration([plan.seconds])}" if plan.missing else ""
    _say(f"{len(plan.cells)} runs, {done} done already, {len(plan.missing)} to do{time}")


def _ask(plan: Plan, yes: bool) -> None:
    """Let a person at a terminal stop a long benchmark before it starts."""
    if yes or plan.seconds < ASK_BEYOND or not sys.stdin.isatty():
        return
    if input("start? [Y/n] ").strip().lower() not in ("", "y", "yes"):
        raise KeyboardInterrupt


def _say(line: str) -> None:
    """One line on standard error, above the progress bar where there is one."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_json(values: Mapping[str, Any]) -> None:
    print(json.dumps(values))
