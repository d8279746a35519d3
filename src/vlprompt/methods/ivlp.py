"""IVLP, Independent Vision-Language Prompting (arXiv 2212.03640): deep prompts in both branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.methods.base import Method
from vlprompt.methods.deep import DeepSettings, deep_tokens, layer_lengths, words_within
from vlprompt.methods.rows import context_parameter, learnable_rows, random_tokens
from vlprompt.typed import Length


@dataclass(frozen=True, kw_only=True)
class Settings(DeepSettings):
    """IVLP."""

    vision_lengths: tuple[Length, ...] = ()
    """context length of every vision layer; replaces n_ctx and depth"""


class IVLP(Method):
    """IVLP: text and visual tokens of their own in the first ``depth`` layers."""

    name, title, paper, year = "ivlp", "IVLP", "2212.03640", 2023
    learns = "text context and visual tokens, independent"
    Settings = Settings

    def build(self) -> None:
        """Context from words, all other tokens N(0, 0.02^2)."""
        s, backbone, encoder = self.settings, self.encoder.backbone, self.encoder
        text = layer_lengths(s.text_lengths, s.n_ctx, s.depth, len(backbone.text_layers), "text")
        vision = layer_lengths(s.vision_lengths, s.n_ctx, s.depth, len(backbone.vision_layers), "vision")
        self.words = words_within(encoder, s.ctx_init, text[0]) if s.text_lengths else s.ctx_init
        self.ctx = context_parameter(encoder, text[0], self.words)
        self.text_deep = deep_tokens(encoder, text[1:], backbone.text_width)
        self.vision_ctx = random_tokens(vision[0], backbone.vision_width, encoder)
        self.vision_deep = deep_tokens(encoder, vision[1:], backbone.vision_width)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """[start][context][remaining words][class name][.][end]."""
        return learnable_rows(self.encoder, classnames, len(self.ctx), self.words)

    def text_prompt(self) -> Prompt:
        """Context at the input and at each further prompted layer."""
        return Prompt(self.ctx, tuple(self.text_deep))

    def vision_prompt(self) -> Prompt:
        """Tokens at the input and at each further prompted layer."""
        return Prompt(self.vision_ctx, tuple(self.vision_deep))
