"""The command ``vlprompt compare``: ``bench`` with the user's own images as its data set."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, UseAppendAction, arg

from vlprompt.cli.bench import Names, Numbers, run_choice
from vlprompt.cli.config_file import flag_words
from vlprompt.cli.console import show

if TYPE_CHECKING:
    from vlprompt.benchmark.protocols import Cell
    from vlprompt.benchmark.standings import Standing


def compare(
    data: Positional[str],
    /,
    *,
    methods: Names = ("zeroshot", "linear", "coop", "genpt"),
    shots: int | None = None,
    seeds: Numbers = (1, 2, 3),
    views: int = 10,
    changes: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="METHOD.NAME=VALUE")] = (),
    model: str = "toy",
    root: Path | None = None,
    out: Path = Path("out/compare"),
    workers: int = 0,
    yes: bool = False,
    plan: bool = False,
    force: bool = False,
    json: bool = False,
) -> None:
    """Compare methods on your own images; goes on where it was.

    Each seed draws other training images; those that it leaves are held out and tested on. The features of
    the frozen backbone are computed once for all runs.

    Args:
        data: images: a folder of class folders, or anything that 'vlprompt fit' takes.
        methods: names ('vlprompt methods' lists them) or own files my_method.py. Those with visual prompts,
            such as dpl, run the image branch at every step: on a CPU that takes long with a large backbone.
        shots: training images a class; 16 by default, or fewer where too few would be left for testing.
        seeds: of sampling and training.
        views: augmented views of each training image, computed once; 0 draws fresh ones at every step.
        changes: a change to a method's settings, such as coop.epochs=20; may be given several times.
        model: frozen backbone: 'toy', 'toy-deep', a local folder or a hub id.
        root: folder of the benchmark's data sets.
        out: folder for results.jsonl and report.html.
        workers: runs at the same time; 0 is one a core, or one a GPU.
        yes: never ask.
        plan: only show what would run.
        force: write over report.html whoever made it; results.jsonl is only ever added to.
        json: print one JSON object.
    """
    from vlprompt.benchmark.own import choice_of

    choice = choice_of(
        data,
        methods=methods,
        shots=shots,
        seeds=seeds,
        changes=changes,
        model=model,
        root=root,
        views=views,
    )
    done = run_choice(choice, out, workers, yes=yes, plan=plan, force=force, json=json)
    if done is None:
        return
    from vlprompt.benchmark.report import write_bench_report
    from vlprompt.benchmark.results import read_results
    from vlprompt.benchmark.run import records_of
    from vlprompt.benchmark.standings import standings, to_take

    records = records_of(done.plan, done.store)
    ranked = standings(read_results(records))
    method = to_take(ranked).results[0] if ranked else None
    cell = next((c for c in done.plan.cells if method and c.command == method.command), None)
    command = fit_command(cell) if cell else ""
    write_bench_report(records, done.report, f"Methods compared on {data}", command)
    if json:
        rows = [{"method": s.row, "accuracy": s.values("accuracy")} for s in ranked]
        show(done.summary | {"methods": rows, "take": command}, True)
    elif ranked:
        _print(ranked, command, done.report)
    if done.failed:
        raise SystemExit(1)


def _print(ranked: Sequence[Standing], command: str, report: Path) -> None:
    from vlprompt.benchmark.standings import HEAD, NOTE, cells, verdict

    console, first = Console(), ranked[0].results[0]
    seeds = ", ".join(str(result.seed) for result in ranked[0].results)
    images = int(first.metrics["test"]["n"])
    table = Table(*HEAD, title=f"{first.shots} shots, seeds {seeds}; {images:,} test images", caption=NOTE)
    for standing in ranked:
        table.add_row(*cells(standing))
    console.print(table)
    print(f"{verdict(ranked)}\n  {command}\nreport in {report}")


def fit_command(cell: Cell, out: str = "my-classifier") -> str:
    """The command that trains what a cell trained, and keeps it."""
    words = ["vlprompt", "fit", cell.dataset, "--method", cell.method, "--model", cell.model]
    words += ["--shots", str(cell.shots), "--seed", str(cell.seed)]
    for flag, value in (("preset", cell.preset), ("views", cell.views), ("root", cell.root)):
        words += flag_words(flag, value) if value else []
    words += [word for name, value in cell.settings.items() for word in flag_words(name, value)]
    return shlex.join([*words, "--out", out])
