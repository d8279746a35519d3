"""MMA, Multi-Modal Adapter (CVPR 2024, pages 23826-23837): adapters beside the upper blocks, joined.

Shapes: D width of a branch, a width of the adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from vlprompt.engine.prompt import Beside, Map, Prompt
from vlprompt.methods import base
from vlprompt.methods.base import Method
from vlprompt.methods.schedules import cosine
from vlprompt.typed import BatchSize, Between, Epochs, Positive, Rate


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """MMA."""

    lr: Rate = 0.0015
    """learning rate; cosine decay, stepped once an epoch, no warm-up"""
    epochs: Epochs = 5
    """passes over the training images"""
    batch_size: BatchSize = 16
    """images a step; published: 128 for ImageNet"""
    start: Annotated[int, Between(1, 1000)] = 5
    """first layer with adapters, counted from 1; a backbone with fewer layers has them in its last"""
    width: Annotated[int, Between(1, 65_536)] = 32
    """width of the adapters"""
    scale: Positive = 0.001
    """what the adapters' outputs are multiplied by"""


class MMA(Method):
    """MMA: block(x) + scale * up(shared(down(norm(x)))), ``shared`` common to both branches of a layer."""

    name, title, paper, year = "mma", "MMA", "CVPR 2024", 2024
    learns = "adapters beside the upper layers of both branches, joined layer by layer"
    Settings = Settings
    presets = {"imagenet": {"batch_size": 128}}  # noqa: RUF012

    def build(self) -> None:
        """D -> a, a -> a (shared) and a -> D for each layer from ``start`` on."""
        backbone, a = self.encoder.backbone, self.settings.width
        counts = len(backbone.text_layers), len(backbone.vision_layers)
        self.first = min(self.settings.start, *counts) - 1

        def linears(count: int, inside: int, outside: int) -> nn.ModuleList:
            return nn.ModuleList(_linear(inside, outside) for _ in range(count)).to(backbone.device)

        text, vision = (count - self.first for count in counts)
        self.shared = linears(max(text, vision), a, a)
        self.text_down, self.text_up = (
            linears(text, *ends) for ends in ((backbone.text_width, a), (a, backbone.text_width))
        )
        self.vision_down, self.vision_up = (
            linears(vision, *ends) for ends in ((backbone.vision_width, a), (a, backbone.vision_width))
        )

    def text_prompt(self) -> Prompt:
        """The adapters of the text branch."""
        return self._beside(self.text_down, self.text_up)

    def vision_prompt(self) -> Prompt:
        """The adapters of the vision branch."""
        return self._beside(self.vision_down, self.vision_up)

    def learning_rate(self, at: float, epochs: int) -> float:
        """A cosine, stepped once an epoch."""
        return cosine(self.settings.lr, int(at), epochs)

    def _beside(self, downs: nn.ModuleList, ups: nn.ModuleList) -> Prompt:
        maps = (self._adapter(*layers) for layers in zip(downs, self.shared, ups, strict=False))
        return Prompt(beside=[None] * self.first + [Beside(block=f) for f in maps])

    def _adapter(self, down: Any, shared: Any, up: Any) -> Map:
        """The adapter of one layer; its parameters get the gradient without ``scale``, as released.

        What flows on to lower layers is the true gradient. At the published scale and learning rate the
        true gradient of the parameters would train next to nothing.
        """
        scale = self.settings.scale

        def adapter(x: Tensor) -> Tensor:
            x = times_gradient(x.to(down.weight.dtype), scale)
            inside = shared(down(x).relu()).relu()
            return scale * times_gradient(up(inside), 1 / scale)

        return adapter


def _linear(inside: int, outside: int) -> nn.Linear:
    linear = nn.Linear(inside, outside)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    nn.init.zeros_(linear.bias)
    return linear


def times_gradient(x: Tensor, factor: float) -> Tensor:
    """x as it is, its gradient multiplied by ``factor``."""
    return _TimesGradient.apply(x, factor) if x.requires_grad else x


class _TimesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
