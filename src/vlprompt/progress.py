"""Progress bars for whatever takes longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True)
T = TypeVar("T")


@contextmanager
def bar(description: str, total: int, show: bool = True) -> Iterator[Progress]:
    """A progress bar with one task; ``update(note=...)`` on it shows a word on the side."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    on = show and sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=not on) as progress:
        progress.add_task(description, total=total, note="")
        yield progress


def track(items: Iterable[T], description: str, total: int, show: bool = True) -> Iterator[T]:
    """Go through items with a bar."""
    with bar(description, total, show) as progress:
        for item in items:
            yield item
            progress.advance(progress.task_ids[0])
