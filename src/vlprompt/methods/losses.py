"""Losses that several methods use."""

from __future__ import annotations

from torch import Tensor


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of logits (B, K), averaged over images and classes as the releases do."""
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).mean()
