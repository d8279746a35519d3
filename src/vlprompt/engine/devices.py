"""Which device to compute on."""

from __future__ import annotations

import os

import torch

from vlprompt.errors import UserError


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA (this process's own card) or MPS where there is one, otherwise the CPU.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        if torch.cuda.is_available():
            name = f"cuda:{os.environ.get('LOCAL_RANK', torch.cuda.current_device())}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device has its own, where its package is absent
        raise UserError(f"device '{name}' is not there: give auto, cpu, or one that torch lists") from error
    return device
