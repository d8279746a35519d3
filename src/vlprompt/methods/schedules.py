"""Learning rates over the epochs of a training: the field's schedule, and a plain cosine."""

from __future__ import annotations

import math

WARMUP_LR = 1e-5


def warmed_cosine(lr: float, at: float, epochs: int) -> float:
    """The field's: one epoch at 1e-5, then a cosine from ``lr``, stepped once an epoch.

    Args:
        at: epochs since the start; 2.5 is the middle of the third.
    """
    epoch = int(at)
    return cosine(lr, epoch - 1, epochs) if epoch else WARMUP_LR


def cosine(lr: float, at: float, epochs: int, low: float = 0.0) -> float:
    """From ``lr`` at the start to ``low`` after the last of ``epochs``."""
    return low + 0.5 * (lr - low) * (1 + math.cos(math.pi * at / epochs))
