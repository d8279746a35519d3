"""Runs in parallel on a Ray cluster. The plan and the results file stay with the process that called."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Sequence
from typing import Any

from vlprompt.benchmark.protocols import Cell
from vlprompt.benchmark.workers import TRIES, Outcome, attempt
from vlprompt.errors import UserError

KNOCK = 5.0
"""Seconds in which a cluster must let itself be connected to."""
LOCAL = "local"
"""Address that starts a cluster of this machine alone."""


def run_on_cluster(cells: Sequence[Cell], address: str, workers: int = 0) -> Generator[Outcome]:
    """Outcomes of all cells as they come; a run whose process or machine dies is started again.

    It is connected when this returns, so that a caller need not begin anything without a cluster.
    Every machine needs this package, and the images and models under the same paths.

    Args:
        address: of a running cluster (``HOST:PORT``, ``auto``, ``ray://HOST:PORT``), or ``local``.
        workers: CPUs of a ``local`` cluster; 0 takes all.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    return _outcomes(_connect(address, workers), cells)


def _outcomes(ray: Any, cells: Sequence[Cell]) -> Generator[Outcome]:
    try:
        gpus = 1 if cells[0].device == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES - 1)(attempt)
        running = {task.remote(cell): cell for cell in cells}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            cell = running.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                yield Outcome(cell, None, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise unless somebody listens at an address with a port: Ray itself waits for a minute.

    Raises:
        UserError: nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _no_cluster(address, reason) from error


def _no_cluster(address: str, reason: object) -> UserError:
    return UserError(
        f"no Ray cluster at '{address}' ({reason}): start one with 'ray start --head', or give "
        "--cluster local"
    )


def _connect(address: str, workers: int) -> Any:
    """Ray, connected."""
    _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster needs Ray: pip install 'vlprompt[cluster]'") from error
    options: dict[str, Any] = {"address": address, "logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        options |= {
            "num_cpus": workers or None,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",  # nothing is reachable from outside
        }
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _no_cluster(address, str(error).strip().splitlines()[0]) from error
    return ray
