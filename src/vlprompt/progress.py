"""What is said on standard error: progress bars for whatever takes longer than two seconds, single lines."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vlprompt.errors import printable

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


def say(line: str) -> None:
    """One line on standard error, above the progress bar where there is one, whatever its values hold."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def quiet_libraries() -> None:
    """None of the libraries' own bars and notices, warnings in a line; also in processes started later.

    By the environment, because to import ``transformers`` takes as long as some commands.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    log = logging.getLogger("vlprompt")
    warnings.showwarning = lambda message, *_, **__: log.warning("%s", message)  # no module, no source
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        from transformers.utils import logging as notices

        notices.disable_progress_bar()
        notices.set_verbosity_error()
