"""ATPrompt, Attribute-anchored prompts (arXiv 2412.09442): learned vectors before fixed attribute words.

On CoOp by itself; ``maple+atprompt`` is the paper's other base, and any text context can be one.

Shapes: n context length, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from vlprompt.engine.packing import Row, context_slot
from vlprompt.engine.prompt import Prompt
from vlprompt.errors import UserError
from vlprompt.methods import coop
from vlprompt.methods.base import Method
from vlprompt.methods.coop import CoOp
from vlprompt.methods.rows import check_length, random_tokens
from vlprompt.methods.templates import fill
from vlprompt.typed import Epochs, Length


@dataclass(frozen=True, kw_only=True)
class Added:
    """What attributes add to the settings of any prompts with a text context."""

    attributes: tuple[str, ...] = ("color", "shape")
    """attribute words; published for ImageNet: color and shape"""
    attribute_lengths: tuple[Length, ...] = (2,)
    """vectors before each attribute; the last number goes for all further ones"""
    n_ctx: Length = 2
    """context length before the class name, after the attributes"""
    ctx_init: str = ""
    """words whose embeddings start the context before the class name; empty for a random start"""
    one_token: bool = False
    """vectors stand as if every attribute were one token, as released: of a longer one, tokens are lost"""


class Attributes(Method):
    """prompt = [start][v]... attribute ... [context][class name][.][end] (eq. 4)."""

    Settings = Added

    def build(self) -> None:
        """Vectors (n, D) before each attribute, N(0, 0.01^2), beside the context."""
        super().build()
        s, width = self.settings, self.encoder.backbone.text_width
        if "ctx" not in self._parameters:
            raise UserError(
                f"'{self.name}' has no text context that attributes could stand before: "
                "add atprompt to coop or maple"
            )
        if not s.attributes or not s.attribute_lengths:
            raise UserError("attributes or attribute_lengths are empty: give one word or number at least")
        if getattr(s, "class_specific", False) or getattr(s, "position", "end") != "end":
            raise UserError("attributes stand before a context that all classes share, in front of the name")
        given = s.attribute_lengths
        self.counts = [given[min(i, len(given) - 1)] for i in range(len(s.attributes))]
        each = (random_tokens(n, width, self.encoder, std=0.01) for n in self.counts)
        self.attribute_tokens = nn.ParameterList(each)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """[start][v_1][attribute 1] ... [context][class name][.][end].

        Raises:
            UserError: a sequence would be longer than the backbone's positions.
        """
        encode, n_ctx = self.encoder.tokenize, len(self.get_parameter("ctx"))
        words = [self.encoder.body(word) for word in self.settings.attributes]
        starts, placeholder = self.encoder.backbone.starts, self.encoder.body("X")[:1]
        before: list[int] = []
        places: list[int] = []  # where the vectors stand, from 0 after the start token
        at = 0
        for n, word in zip(self.counts, words, strict=True):
            before += [*placeholder * n, *word]
            places += range(at, at + n)
            at += n + (1 if self.settings.one_token else len(word))
        before += placeholder * n_ctx
        places += range(at, at + n_ctx)
        for slot, place in enumerate(places):
            before[place] = context_slot(slot)
        self.place = starts + at, n_ctx
        sentences = encode([fill("{}.", name) for name in classnames])
        rows = [(*s[:starts], *before, *s[starts:]) for s in sentences]
        return [check_length(self.encoder, r, c, len(places)) for r, c in zip(rows, classnames, strict=True)]

    def text_prompt(self) -> Prompt:
        """Attributes' vectors and the context; deeper layers replace the context alone."""
        prompt = super().text_prompt()
        assert prompt is not None and prompt.context is not None
        context = torch.cat([*self.attribute_tokens, prompt.context])
        return replace(prompt, context=context, place=self.place)


@dataclass(frozen=True, kw_only=True)
class Settings(Added, coop.Settings):
    """ATPrompt on CoOp."""

    epochs: Epochs = 100
    """passes over the training images"""


class ATPrompt(Attributes, CoOp):
    """ATPrompt: CoOp's context anchored by attributes."""

    name, title, paper, year = "atprompt", "ATPrompt", "2412.09442", 2025
    learns = "text context, and vectors before attribute words"
    Settings = Settings
    added = Attributes
    presets = {"cross-dataset": {"epochs": 10, "n_ctx": 4, "attribute_lengths": (4,)}}  # noqa: RUF012

    @classmethod
    def settings_for(cls, shots: int | None, **changes: Any) -> Any:
        """The same number of epochs for all shots."""
        return cls.Settings(**changes)
