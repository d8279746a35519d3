"""Which device to compute on, and what stays there."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

import torch
from torch import Tensor

from vlprompt.errors import UserError

T = TypeVar("T")


def made_once(make: Callable[..., T]) -> Callable[..., T]:
    """Keep what a function makes of its arguments; training can use it, whoever asked for it first."""

    @lru_cache(maxsize=256)
    @wraps(make)
    def made(*arguments: object) -> T:
        with torch.inference_mode(False):
            return make(*arguments)

    return made


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA or MPS where there is one, otherwise the CPU; ``cuda`` is this process's own card.

    On CUDA, convolutions are in full float32 from then on, as matrix products are.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        there = torch.cuda.is_available(), torch.backends.mps.is_available()
        name = "cuda" if there[0] else "mps" if there[1] else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', torch.cuda.current_device())}"
        torch.backends.cudnn.allow_tf32 = False
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device has its own, where its package is absent
        raise UserError(f"device '{name}' is not there: give auto, cpu, or one that torch lists") from error
    return device


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the processor's on a device; the processor does not wait until it is there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.to(dtype or tensor.dtype).pin_memory().to(device, non_blocking=True)
    return tensor.to(device, dtype)
