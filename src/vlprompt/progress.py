"""What is said on standard error: progress bars for whatever takes longer than two seconds, single lines."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from vlprompt.errors import printable

console = Console(stderr=True)
LONG = 120
"""Seconds of work beyond which its time is said at its start."""
QUICK = 10
"""Seconds of work within which no lines are said."""
STEPS = 5
"""Steps whose time says how long all take; the first of them is left out."""
EVERY = 0.5
"""Seconds between two looks of a bar in a notebook."""
T = TypeVar("T")


def spoken(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def meter(
    description: str, total: int, done: int = 0, show: bool = True, faster: str = ""
) -> Iterator[Callable[[str], None]]:
    """What to call after each step of work, with a word on the side.

    A bar on a terminal, a line at every tenth of the way elsewhere. Of work that takes long the time is said
    at its start.

    Args:
        done: steps that an earlier call did.
        faster: what would be faster, said of work that takes long.
    """
    first, start = done, time.monotonic()
    second = start
    what = description.strip()
    with bar(description, total, show) as progress:
        task = progress.task_ids[0]
        progress.update(task, completed=done)

        def advance(note: str) -> None:
            nonlocal done, second
            done, now = done + 1, time.monotonic()
            second = now if done == first + 1 else second  # the first step's own costs are no measure
            progress.update(task, advance=1, note=note)
            if not show:
                return
            a_step = (now - second) / max(done - first - 1, 1)
            if done - first == STEPS and a_step * total > LONG:
                long = f"{what}: {total} steps, about {spoken(a_step * total)}"
                say(f"{long}; faster: {faster}" if faster else long)
            tenth = done * 10 // total > (done - 1) * 10 // total
            if progress.disable and tenth and done < total and now - start > QUICK:
                left = spoken(a_step * (total - done))
                say(f"{what} {done}/{total}{note and ' ' + note}, about {left} left")

        yield advance


class NotebookBar(Progress):
    """A bar in a notebook, gone when the work is done; rich's own would need ipywidgets."""

    place: Any = None

    def start(self) -> None:
        """There is nothing to see yet."""
        self.drawn = time.monotonic()

    def stop(self) -> None:
        """Clear the place."""
        if self.place is not None:
            self._put("")

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """As rich's."""
        super().update(task_id, **fields)
        self._draw(self.tasks[task_id])

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich's."""
        super().advance(task_id, advance)
        self._draw(self.tasks[task_id])

    def _draw(self, task: Task) -> None:
        if (now := time.monotonic()) - self.drawn < EVERY:
            return
        self.drawn = now
        left = f", {task.time_remaining:.0f} s left" if task.time_remaining else ""
        words = f"{task.description} {task.completed:g}/{task.total:g} {task.fields['note']}{left}"
        self._put(f'<progress value="{task.completed}" max="{task.total}"></progress> {escape(words)}')

    def _put(self, html: str) -> None:
        from IPython.display import HTML, display

        if self.place is None:
            self.place = display(HTML(html), display_id=True)
        else:
            self.place.update(HTML(html))


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
    bars = NotebookBar if show and console.is_jupyter else Progress
    on = show and (console.is_jupyter or sys.stderr.isatty())
    with bars(*columns, console=console, transient=True, disable=not on) as progress:
        progress.add_task(description, total=total, note="")
        yield progress


def track(items: Iterable[T], description: str, total: int, show: bool = True) -> Iterator[T]:
    """Go through items with a :func:`meter`."""
    with meter(description, total, show=show) as advance:
        for item in items:
            yield item
            advance("")


def say(line: str) -> None:
    """One line on standard error, above the progress bar where there is one, whatever its values hold."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def no_library_bars() -> Iterator[None]:
    """None of the bars of ``transformers`` inside, which the caller's own work may show."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def said_before() -> Iterator[None]:
    """No warnings inside, where what is read again was warned of when it was read first."""
    log = logging.getLogger("vlprompt")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


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
