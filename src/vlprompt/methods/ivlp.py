"""IVLP, Independent Vision-Language Prompting (arXiv 2212.03640): deep prompts in both branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlprompt.encoder import Prompt, Row
from vlprompt.methods import base
from vlprompt.methods.base import (
    Method,
    check_depth,
    context_parameter,
    deep_tokens,
    learnable_rows,
    random_tokens,
)


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """IVLP."""

    lr: float = 0.0035
    """learning rate of SGD"""
    epochs: int = 5
    """passes over the training images"""
    batch_size: int = 4
    """images a step"""
    n_ctx: int = 2
    """context length in every prompted layer of both branches"""
    depth: int = 12
    """prompted layers of both branches; more than the backbone has means all (9 in later work)"""
    ctx_init: str = "a photo of a"
    """words of the prompt; the first n_ctx of their tokens start the context, the rest stays frozen"""


class IVLP(Method):
    """IVLP: text and visual tokens of their own in the first ``depth`` layers."""

    name = "ivlp"
    title = "IVLP"
    paper = "2212.03640"
    year = 2023
    learns = "text context and visual tokens, independent"
    Settings = Settings

    def build(self) -> None:
        """Context from words, all other tokens N(0, 0.02^2)."""
        s, backbone, encoder = self.settings, self.encoder.backbone, self.encoder
        text_depth = check_depth(s.depth, backbone.text_layers, "text")
        vision_depth = check_depth(s.depth, backbone.vision_layers, "vision")
        self.ctx = context_parameter(encoder, s.n_ctx, s.ctx_init)
        self.text_deep = deep_tokens(encoder, text_depth, s.n_ctx, backbone.text_width)
        self.vision_ctx = random_tokens(s.n_ctx, backbone.vision_width, encoder)
        self.vision_deep = deep_tokens(encoder, vision_depth, s.n_ctx, backbone.vision_width)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """[start][context][remaining words][class name][.][end]."""
        return learnable_rows(self.encoder, classnames, self.settings.n_ctx, self.settings.ctx_init)

    def text_prompt(self) -> Prompt:
        """Context at the input and at each further prompted layer."""
        return Prompt(self.ctx, tuple(self.text_deep))

    def vision_prompt(self) -> Prompt:
        """Tokens at the input and at each further prompted layer."""
        return Prompt(self.vision_ctx, tuple(self.vision_deep))
