"""The command ``vlprompt demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from vlprompt.cli.console import show, show_lengths

if TYPE_CHECKING:
    from vlprompt.reports.training import Run


def demo(
    out: Path = Path("out/demo"),
    seeds: tuple[int, ...] = (1,),
    shots: int = 16,
    force: bool = False,
    json: bool = False,
) -> None:
    """Zero-shot CLIP, CoOp and DPL side by side on real handwritten digits, with the toy backbone.

    DPL stands beside as many tokens spread evenly and placed at random.

    Args:
        out: folder for the tuned prompts and report.html.
        seeds: several give a mean and a standard deviation.
        shots: training images a class; four more are for validation, the rest is for testing.
        force: replace what is there whoever made it.
        json: print one JSON object.
    """
    from vlprompt.jobs import demo as job

    runs = job.demo(out, seeds, shots, force)
    report = out / job.REPORT
    accuracy: dict[str, list[float]] = {}
    for run in runs:
        accuracy.setdefault(run.title, []).append(run.measured["test"]["accuracy"])
    if json:
        show({"accuracy": accuracy, "report": str(report)}, True)
        return
    _print(runs, accuracy)
    Console().print(f"tuned prompts in {out}, report in {report}", markup=False)


def _print(runs: Sequence[Run], accuracy: dict[str, list[float]]) -> None:
    from vlprompt.reports.stats import mean_std

    table = Table("method", "test accuracy", "seeds", title="Real handwritten digits, toy backbone")
    for method, values in accuracy.items():
        mean, deviation = mean_std(values)
        spread = f" ± {deviation:.1f}" if len(values) > 1 else ""
        table.add_row(method, f"{mean:.1f}%{spread}", " ".join(f"{v:.1f}" for v in values))
    Console().print(table)
    for run in runs:
        if run.lengths and run.title == "DPL":
            show_lengths(run.lengths, f"Searched lengths, seed {run.seed}")
