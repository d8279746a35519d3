"""TCP, Textual-based Class-aware Prompt tuning (arXiv 2311.18231): tokens made of each class's own feature.

Shapes: K classes, n context length, D text width, E joint width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.methods import base, kgcoop
from vlprompt.methods.base import Method
from vlprompt.methods.deep import later_layer
from vlprompt.methods.kgcoop import KgLoss
from vlprompt.methods.rows import random_tokens, template_rows
from vlprompt.typed import Between, Length, Positive


@dataclass(frozen=True, kw_only=True)
class Added(kgcoop.Added):
    """What class-aware tokens add to the settings of any prompts."""

    class_tokens: Annotated[int, Between(1, 512)] = 4
    """tokens made of each class's feature; they take the place of as many from position 1 on"""
    class_layer: Annotated[int, Between(2, 1000)] = 9
    """text layer at whose input they do, counted from 1; a backbone with fewer layers takes its last"""


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return x * (1.702 * x).sigmoid()


class ClassAware(KgLoss):
    """Class tokens = net(frozen class feature), and the distance to it in the loss (eqs. 4 and 8)."""

    Settings = Added

    def build(self) -> None:
        """The net E -> E / 4 -> n * D."""
        super().build()
        backbone, n = self.encoder.backbone, self.settings.class_tokens
        self.class_layer = later_layer(self.settings.class_layer, len(backbone.text_layers), "text")
        width, hidden = backbone.joint_width, max(backbone.joint_width // 4, 1)
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(width, hidden),
                gelu=QuickGELU(),
                linear2=nn.Linear(hidden, n * backbone.text_width),
            )
        ).to(backbone.device)

    def text_prompt(self) -> Prompt:
        """What the prompts are, and each class's tokens from their layer on."""
        prompt, n = super().text_prompt() or Prompt(), self.settings.class_tokens
        features = self.knowledge_features.to(next(self.meta_net.parameters()).dtype)
        tokens = self.meta_net(features).unflatten(-1, (n, -1))  # (K, n, D)
        deep: list[Tensor | None] = list(prompt.deep)
        deep += [None] * (self.class_layer - len(deep))
        deep[self.class_layer - 1] = tokens
        return replace(prompt, deep=deep, place=prompt.place or (1, n))


class Context(Method):
    """A context at the input, and the template's other words."""

    def build(self) -> None:
        """The context (n, D), N(0, 0.02^2)."""
        self.ctx = random_tokens(self.settings.n_ctx, self.encoder.backbone.text_width, self.encoder)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """The first template, its first n tokens replaced by the context."""
        return template_rows(self.encoder, classnames, self.settings.n_ctx, self.templates[0])

    def text_prompt(self) -> Prompt:
        """The context at the input."""
        return Prompt(self.ctx, place=(1, self.settings.n_ctx))


@dataclass(frozen=True, kw_only=True)
class Settings(Added, base.Settings):
    """TCP."""

    optimizer: Literal["sgd", "adamw", "adam"] = "adam"
    """Adam as published, or another"""
    eps: Positive = 1e-3
    """what Adam and AdamW add to the root of the second moment; published because of half precision"""
    n_ctx: Length = 4
    """context length at the input"""


class TCP(ClassAware, Context):
    """TCP: generic context at the input, class-aware tokens from a deep text layer on."""

    name, title, paper, year = "tcp", "TCP", "2311.18231", 2023
    learns = "text context, and a network that makes tokens of each class's feature"
    Settings = Settings
    added = ClassAware

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """With ``eps``, where it has one."""
        optimizer = super().optimizer(parameters)
        for group in optimizer.param_groups:
            if "eps" in group:
                group["eps"] = self.settings.eps
        return optimizer
