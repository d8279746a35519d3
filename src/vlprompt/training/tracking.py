"""Training curves for TensorBoard, Weights & Biases or MLflow, through the trackers of accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from vlprompt.errors import UserError
from vlprompt.training.stages import EpochRecord


@contextmanager
def tracked(
    name: str, folder: Path, settings: Mapping[str, Any]
) -> Iterator[Callable[[EpochRecord], None] | None]:
    """What logs the record of an epoch, or nothing without a name.

    Args:
        folder: for trackers that write files.
        settings: those that are plain values are stored as the run's configuration.

    Raises:
        UserError: no such tracker, or it is not installed.
    """
    if not name:
        yield None
        return
    if name not in LOGGER_TYPE_TO_CLASS:
        there = ", ".join(LOGGER_TYPE_TO_CLASS)
        raise UserError(f"unknown tracker '{name}': there are {there}")
    if name not in map(str, get_available_trackers()):
        raise UserError(f"tracker '{name}' is not installed: pip install {name}")
    PartialState()
    kind = LOGGER_TYPE_TO_CLASS[name]
    folder.mkdir(parents=True, exist_ok=True)
    plain = {k: v for k, v in settings.items() if isinstance(v, int | float | str)}
    try:
        tracker = kind("vlprompt", str(folder)) if kind.requires_logging_directory else kind("vlprompt")
        tracker.start()
        tracker.store_init_configuration(plain)
    except Exception as error:  # each has its own, such as for a login that is missing
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"tracker '{name}' cannot start ({reason}): set it up, or train without") from error
    step = 0

    def log(record: EpochRecord) -> None:
        nonlocal step
        values = {f"{record['stage']}/{k}": v for k, v in record.items() if isinstance(v, float)}
        tracker.log(values, step=step)
        step += 1

    try:
        yield log
    finally:
        tracker.finish()
