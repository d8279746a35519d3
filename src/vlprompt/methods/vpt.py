"""VPT, Visual Prompt Tuning (arXiv 2203.12119); CLIP's text branch, or a learned head, is the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.methods.base import Method
from vlprompt.methods.deep import VisualSettings, deep_tokens, layer_lengths
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.templates import DEFAULT_TEMPLATE, fill
from vlprompt.typed import Between, Length, Rate


@dataclass(frozen=True, kw_only=True)
class Settings(VisualSettings):
    """VPT."""

    lr: Rate = 0.0025
    """learning rate of SGD"""
    n_ctx: Length = 8
    """visual tokens in every prompted layer"""
    depth: Annotated[int, Between(1, 1000)] = 12
    """prompted layers; 1 is VPT-shallow. More than the backbone has means all"""
    vision_lengths: tuple[Length, ...] = ()
    """visual tokens of every layer, e.g. those that a search found; replaces n_ctx and depth"""


class VPT(Method):
    """VPT: tokens after the patch tokens, replaced by fresh ones at every further prompted layer."""

    name, title, paper, year = "vpt", "VPT", "2203.12119", 2022
    learns = "visual tokens"
    needs = frozenset({"vision"})
    Settings = Settings
    presets = {"shallow": {"depth": 1}, "deep": {"depth": 12}}  # noqa: RUF012

    def build(self) -> None:
        """Tokens N(0, 0.02^2), (n, D) for each of ``depth`` layers."""
        s, backbone = self.settings, self.encoder.backbone
        first, *deep = layer_lengths(
            s.vision_lengths, s.n_ctx, s.depth, len(backbone.vision_layers), "vision"
        )
        self.vision_ctx = random_tokens(first, backbone.vision_width, self.encoder)
        self.vision_deep = deep_tokens(self.encoder, deep, backbone.vision_width)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """The frozen words "a photo of a {}."."""
        return self.encoder.tokenize([fill(DEFAULT_TEMPLATE, name) for name in classnames])

    def vision_prompt(self) -> Prompt:
        """Tokens at the input and at each further prompted layer."""
        return Prompt(self.vision_ctx, tuple(self.vision_deep))
