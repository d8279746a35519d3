"""Commands in processes of their own, and what they wrote: for the hard tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

import vlprompt.benchmark.run
import vlprompt.export.onnx
import vlprompt.export.stock_clip
import vlprompt.jobs.fit
import vlprompt.jobs.search  # noqa: F401 (all that a command would import later)
from vlprompt.cli import main as cli

torch.set_num_threads(1)  # a pool of threads would not live on in a fork
os.environ["TOKENIZERS_PARALLELISM"] = "false"
FORK = multiprocessing.get_context("fork")
TIMES = re.compile(r"\d+(\.\d+)? (ms|s|min|h)\b|\d{4}-\d\d-\d\dT[\d:+]+")
"""What a page says about when something was done and how long it took."""
DRAWN = re.compile(r"(?s)<svg.*?</svg>|<details><summary>Time of training and testing.*?</details>")
"""Plots, and the table of times, whose best is marked."""


class Command:
    """``vlprompt WORDS``, or a function, in a process of its own that has all imports behind it.

    A fork of this process: an import writes nothing, so there is nothing to kill in it, and it takes
    most of a short command's time.
    """

    def __init__(self, *words: object, said: Path, limit: Callable[[], object] = lambda: None):
        self.said = said
        work = words[0] if callable(words[0]) else _run
        begun = FORK.Event()  # before that a signal would still be taken as this process takes it
        arguments = (work, [*map(str, words)], said, limit, begun)
        self.process = FORK.Process(target=_in_child, args=arguments)
        self.process.start()
        begun.wait()

    def end(self, timeout: float = 900) -> int | None:
        """Its exit code, -9 where it was killed."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"it does not end: {self.said.read_text()}"
        return self.process.exitcode

    def signal(self, number: int) -> None:
        """Send a signal, where it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)

    def lines(self) -> list[str]:
        """What it said on standard error."""
        return self.said.read_text().splitlines()


def _in_child(
    work: Callable[..., Any], words: list[str], said: Path, limit: Callable[[], object], begun: Event
) -> None:
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun.set()
    limit()
    work(*(words if work is _run else ()))
    sys.stdout.flush()
    sys.stderr.flush()


def _run(*words: str) -> None:
    sys.argv = ["vlprompt", *words]
    cli.run()


def content(folder: Path) -> dict[str, Any]:
    """All that a command wrote, without what a clock said: file by file, each to be compared."""
    assert not left_over(folder)
    return {str(f.relative_to(folder)): timeless(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def left_over(folder: Path) -> list[Path]:
    """What nobody wants to find after a command: half-written files, and copies of former ones."""
    return [p for p in folder.rglob("*") if p.name.endswith((".part", ".old")) or p.name == "checkpoints"]


def timeless(file: Path) -> Any:
    """What a file says, without what a clock said."""
    if file.suffix == ".jsonl":
        return sorted(map(_without_times, map(json.loads, file.read_text().splitlines())), key=str)
    if file.suffix in (".html", ".md"):
        return DRAWN.sub("", TIMES.sub("", file.read_text()))
    if file.name == "history.json":
        return _without_times(json.loads(file.read_text()))
    return file.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in ("seconds", "finished")}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
