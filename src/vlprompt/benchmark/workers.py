"""Runs in parallel on this machine: one process a run at a time, on one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from vlprompt.benchmark.protocols import Cell, Record, run_cell
from vlprompt.errors import UserError
from vlprompt.progress import quiet_libraries

TRIES = 3
"""How often a run is started whose process dies (killed, out of memory) before it counts as failed."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its record, or the problem in one line."""

    cell: Cell
    record: Record | None
    problem: str = ""


def attempt(cell: Cell) -> Outcome:
    """Run a cell; whatever goes wrong is its problem alone."""
    try:
        return Outcome(cell, run_cell(cell))
    except UserError as error:
        return Outcome(cell, None, str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        name = type(error).__name__
        return Outcome(cell, None, f"{name}: {reason} ({Path(where.filename).name}, line {where.lineno})")


def default_workers() -> int:
    """One process a GPU, or one a core where there is none."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return torch.cuda.device_count() or cores or 1


def run_in_processes(cells: Sequence[Cell], workers: int) -> Generator[Outcome]:
    """Outcomes of all cells as they come; a process that dies is replaced and its run started again."""
    waiting, tries = deque(cells), Counter[str]()
    team: list[_Worker] = []
    try:
        while waiting or any(worker.cell for worker in team):
            while waiting and len(team) < workers:
                team.append(_Worker(_free_gpu(team)))
            for worker in team:
                if waiting and worker.cell is None:
                    worker.start(waiting.popleft())
            ready = wait([worker.pipe for worker in team if worker.cell])
            for worker in [w for w in team if w.pipe in ready]:
                cell = worker.cell
                assert cell is not None
                outcome = worker.outcome()
                if outcome is None:
                    team.remove(worker)
                    tries[cell.key] += 1
                    if tries[cell.key] < TRIES:
                        waiting.appendleft(cell)
                        continue
                    outcome = Outcome(cell, None, f"its process died {TRIES} times: is the memory enough?")
                yield outcome
    finally:
        for worker in team:
            worker.stop()


class _Worker:
    """A process that runs one cell after the other.

    Args:
        gpu: name of the GPU that is the only one it sees; None where there is none.
    """

    def __init__(self, gpu: str | None):
        context = multiprocessing.get_context("spawn")
        self.gpu = gpu
        self.cell: Cell | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, gpu), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def start(self, cell: Cell) -> None:
        """Give it a cell."""
        self.cell = cell
        with suppress(OSError):  # it died while idle: its pipe has ended, which outcome() reports
            self.pipe.send(cell)

    def outcome(self) -> Outcome | None:
        """What became of its cell; None where the process died."""
        self.cell = None
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return None

    def stop(self) -> None:
        """End it: at once where it is at work, otherwise by the end of its pipe."""
        self.pipe.close()
        if self.cell is not None:
            self.process.kill()
        self.process.join()


def _work(pipe: Connection, gpu: str | None) -> None:
    """What a process does until its pipe ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    quiet_libraries()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    while True:
        try:
            pipe.send(attempt(pipe.recv()))
        except EOFError:
            return


def _end_with_parent() -> None:
    """No run goes on for a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _free_gpu(team: Sequence[_Worker]) -> str | None:
    """The GPU that the fewest workers use."""
    gpus = gpu_names(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return min(gpus, key=[worker.gpu for worker in team].count, default=None)


def gpu_names(count: int, visible: str | None) -> list[str]:
    """What a process calls each of the GPUs that this one sees: numbers, or as in CUDA_VISIBLE_DEVICES."""
    if visible is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in visible.split(",")][:count]
