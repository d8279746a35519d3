"""CoOp, Context Optimization (arXiv 2109.01134): the words around the class name are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.base import Method
from vlprompt.methods.rows import Position, context_parameter, learnable_rows
from vlprompt.typed import Epochs, Length


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """CoOp."""

    epochs: Epochs = 200
    """published: 200 at 16 or 8 shots, 100 at 4 or 2, 50 at 1 and for ImageNet"""
    n_ctx: Length = 16
    """context length"""
    ctx_init: str = ""
    """words whose embeddings start the context, e.g. "a photo of a"; sets n_ctx to their number"""
    class_specific: bool = False
    """a context for every class instead of one for all; does not carry over to new classes"""
    position: Position = "end"
    """where the class name stands: at the end, in the middle, or in front of the context"""


class CoOp(Method):
    """CoOp: prompt = [start][context][class name][.][end], cross-entropy on the few images."""

    name, title, paper, year = "coop", "CoOp", "2109.01134", 2022
    learns = "text context"
    Settings = Settings

    def build(self) -> None:
        """The context (n, D), or (K * n, D) where it is class-specific."""
        s = self.settings
        self.words = s.ctx_init.replace("_", " ")
        self.n_ctx = len(self.encoder.body(self.words)) if self.words else s.n_ctx
        copies = len(self.classnames) if s.class_specific else 1
        self.ctx = context_parameter(self.encoder, self.n_ctx, self.words, copies)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """[start][context][class name][.][end], the name where ``position`` says (section 3.2)."""
        s = self.settings
        return learnable_rows(self.encoder, classnames, self.n_ctx, self.words, s.position, s.class_specific)

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Other classes, unless every class has a context of its own."""
        if self.settings.class_specific and tuple(classnames) != self.classnames:
            raise UserError(
                f"a class-specific context was learned for {len(self.classnames)} classes and cannot serve "
                "others: train with a unified context (class_specific=False)"
            )
        super().set_classes(classnames)

    def text_prompt(self) -> Prompt:
        """The context at the input."""
        return Prompt(context=self.ctx)

    @classmethod
    def settings_for(cls, shots: int | None, **changes: Any) -> Any:
        """CoOp's number of epochs depends on the shots."""
        epochs = {1: 50, 2: 100, 4: 100}.get(shots or 16, 200)
        return cls.Settings(**{"epochs": epochs} | changes)
