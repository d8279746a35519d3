"""Linear layers of a frozen model: under autocast their weights are cast once, not in every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrozenLinear(nn.Linear):
    """The same function to the bit; autocast itself keeps cast weights only of what is trained."""

    _kept: tuple[Any, ...] = (None,)
    """The type, device and version of a weight that was cast; weight and bias as they were cast."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        weight, bias, kind = self.weight, self.bias, input.device.type
        cast = torch.is_autocast_enabled(kind) and not weight.requires_grad and weight.dtype == torch.float32
        if not cast or torch.compiler.is_compiling():
            return nn.functional.linear(input, weight, bias)
        wanted, kept = (torch.get_autocast_dtype(kind), weight.device, weight._version), self._kept
        if kept[0] != wanted:
            self._kept = kept = wanted, weight.to(wanted[0]), None if bias is None else bias.to(wanted[0])
        return nn.functional.linear(input, *kept[1:])


def keep_casts(model: nn.Module) -> None:
    """Make the linear layers of a frozen model such."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
