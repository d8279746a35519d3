"""MaPLe, Multi-modal Prompt Learning (arXiv 2210.03117): visual prompts are projected text prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.methods.base import Method
from vlprompt.methods.deep import DeepSettings, deep_tokens, layer_lengths, words_within
from vlprompt.methods.rows import context_parameter, learnable_rows
from vlprompt.typed import Between, Length


@dataclass(frozen=True, kw_only=True)
class Settings(DeepSettings):
    """MaPLe."""

    depth: Annotated[int, Between(1, 1000)] = 9
    """prompted layers of both branches; more than the backbone has means all"""
    text_lengths: tuple[Length, ...] = ()
    """context length of every layer of both branches; replaces n_ctx and depth"""


class MaPLe(Method):
    """MaPLe: a linear coupling function per layer maps the text prompt to the visual one (eq. 6)."""

    name, title, paper, year = "maple", "MaPLe", "2210.03117", 2023
    learns = "text context and its projection to visual tokens, deep"
    Settings = Settings
    presets = {"cross-dataset": {"depth": 3, "epochs": 2}}  # noqa: RUF012

    def build(self) -> None:
        """Text tokens (n, D_text) and a coupling D_text -> D_vision for each of ``depth`` layers."""
        s, backbone = self.settings, self.encoder.backbone
        layers = min(len(backbone.text_layers), len(backbone.vision_layers))
        lengths = layer_lengths(s.text_lengths, s.n_ctx, s.depth, layers, "text")
        widths = backbone.text_width, backbone.vision_width
        self.words = words_within(self.encoder, s.ctx_init, lengths[0]) if s.text_lengths else s.ctx_init
        self.ctx = context_parameter(self.encoder, lengths[0], self.words)
        self.text_deep = deep_tokens(self.encoder, lengths[1:], backbone.text_width)
        self.couplings = nn.ModuleList(nn.Linear(*widths) for _ in lengths).to(backbone.device)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """[start][context][remaining words][class name][.][end]."""
        return learnable_rows(self.encoder, classnames, len(self.ctx), self.words)

    def text_prompt(self) -> Prompt:
        """Context at the input and at each further prompted layer."""
        return Prompt(self.ctx, tuple(self.text_deep))

    def vision_prompt(self) -> Prompt:
        """The text tokens through the coupling functions."""
        first, *deep = [f(p) for f, p in zip(self.couplings, [self.ctx, *self.text_deep], strict=True)]
        return Prompt(first, deep)
