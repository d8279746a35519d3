"""How to train, whatever the method; and the field's learning rate schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlprompt.errors import UserError
from vlprompt.methods.schedules import warmed_cosine
from vlprompt.typed import Positive, Seed, check_fields, checked


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train, whatever the method."""

    seed: Seed = 1
    """seed of sampling, initial values, order and augmentation"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto computes in bfloat16 what is frozen, where the processor has it and the model stands it, and all
    else in float32; bf16 and fp16 are mixed precision in training, too; no is float32"""
    clip_grad: Positive | None = None
    """largest norm of the gradient; off by default, as published"""

    def __post_init__(self) -> None:
        check_fields(self)


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse numbers that are no seeds, and none at all.

    Raises:
        UserError: names the seed.
    """
    if not seeds:
        raise UserError("there are no seeds: give one or more")
    for seed in seeds:
        checked(seed, Seed, "seed")


def learning_rates(base: float, epochs: int) -> list[float]:
    """The field's schedule: one epoch at 1e-5, then a cosine from ``base``, stepped once an epoch."""
    return [warmed_cosine(base, epoch, epochs) for epoch in range(epochs)]
