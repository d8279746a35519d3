"""DPL's published search stage: prompts of all lengths in one network, and weights that choose among them.

The mixture is computed inside attention, in one pass: :func:`vlprompt.engine.attention.mix`.

Shapes: L layers, C longest context, D width of a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import KeyValue, Prompt
from vlprompt.methods.base import Method, Objective
from vlprompt.methods.dpl.alphas import from_alphas
from vlprompt.methods.dpl.settings import Settings
from vlprompt.methods.lengths import Lengths
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.templates import DEFAULT_TEMPLATE, fill


class Supernet(Method):
    """Search stage: a prompt (c, D) for every layer and every c in 1 ... C, and the alphas."""

    needs = frozenset()
    Settings = Settings

    def build(self) -> None:
        """Prompts U(0, 1) in text and N(0, 1) in vision; alphas 1e-3 * N(0, 1)."""
        s, backbone = self.settings, self.encoder.backbone
        self.text_prompts = nn.ParameterList(
            nn.Parameter(torch.rand(_tokens(s.text_max), backbone.text_width).to(backbone.device))
            for _ in backbone.text_layers
        )
        self.vision_prompts = nn.ParameterList(
            random_tokens(_tokens(s.vision_max), backbone.vision_width, self.encoder, std=1.0)
            for _ in backbone.vision_layers
        )
        self.text_alphas, self.vision_alphas = (
            nn.Parameter((1e-3 * torch.randn(len(layers), longest + 1)).to(backbone.device))
            for layers, longest in (
                (backbone.text_layers, s.text_max),
                (backbone.vision_layers, s.vision_max),
            )
        )

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """The frozen words "a photo of a {}."."""
        return self.encoder.tokenize([fill(DEFAULT_TEMPLATE, name) for name in classnames])

    def text_prompt(self) -> Prompt:
        """The text branch's mixture."""
        return _mixture(self.text_prompts, self.text_alphas)

    def vision_prompt(self) -> Prompt:
        """The vision branch's mixture."""
        return _mixture(self.vision_prompts, self.vision_alphas)

    def objectives(self) -> list[Objective]:
        """First-order bilevel: the alphas on a validation batch, then the prompts on a training batch."""
        alphas = [self.text_alphas, self.vision_alphas]
        adam = torch.optim.Adam(alphas, self.settings.alpha_lr, betas=(0.5, 0.999))
        prompts = [*self.text_prompts, *self.vision_prompts]
        return [
            Objective(self.loss, adam, split="val", scheduled=False),
            Objective(self.loss, self.optimizer(prompts)),
        ]

    @property
    def lengths(self) -> Lengths:
        """The derived configuration: the argmax of each layer's alphas."""
        return from_alphas(self.text_alphas, self.vision_alphas)

    def epoch_record(self) -> dict[str, Any]:
        """softmax(alpha) of every layer."""
        both = {"text": self.text_alphas, "vision": self.vision_alphas}
        return {
            "alphas": {k: alphas.detach().softmax(-1).tolist() for k, alphas in both.items() if len(alphas)}
        }


def _mixture(prompts: nn.ParameterList, alphas: Tensor) -> Prompt:
    """All candidates of every layer, (C(C+1)/2, D), with their weights (C+1,)."""
    candidates = tuple(range(1, alphas.shape[1]))
    weights = alphas.softmax(-1)  # (L, C+1)
    return Prompt(keys_values=[KeyValue(p, w, candidates) for p, w in zip(prompts, weights, strict=True)])


def _tokens(longest: int) -> int:
    """Number of tokens of all candidates 1 ... longest."""
    return longest * (longest + 1) // 2
