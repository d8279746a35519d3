"""Linear layers of a frozen model: under autocast their weights are cast once, not in every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrozenLinear(nn.Linear):
    """The same function to the bit; autocast itself keeps cast weights only of what is trained."""

    _kept: tuple[Any, ...] = (None,)
    """The type, and the device, memory and version of what was cast; weight and bias as they were cast."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        weight, bias, kind = self.weight, self.bias, input.device.type
        cast = torch.is_autocast_enabled(kind) and not weight.requires_grad and weight.dtype == torch.float32
        if not cast or torch.compiler.is_compiling() or _inference(weight):
            return nn.functional.linear(input, weight, bias)
        dtype, kept = torch.get_autocast_dtype(kind), self._kept
        wanted = dtype, weight.device, _version(weight), None if bias is None else _version(bias)
        if kept[0] != wanted:
            self._kept = kept = wanted, weight.to(dtype), None if bias is None else bias.to(dtype)
        return nn.functional.linear(input, *kept[1:])


def _inference(weight: Tensor) -> bool:
    """Whether no cast can be kept: inference mode counts no versions, and no training can use its tensors."""
    return torch.is_inference_mode_enabled() or weight.is_inference()


def _version(tensor: Tensor) -> tuple[int, int]:
    """Which memory it is, and how often that was written."""
    return tensor.data_ptr(), tensor._version


def keep_casts(model: nn.Module) -> None:
    """Make the linear layers of a frozen model such."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
