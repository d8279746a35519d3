"""DPL's settings: this project's defaults, and the published ones as a preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.typed import BatchSize, Between, Epochs, Length, Rate


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """DPL."""

    lr: Rate = 0.0035
    """learning rate of the prompts"""
    epochs: Epochs = 40
    """passes over the training images, the search included unless it is the published one or fresh"""
    batch_size: BatchSize = 4
    """images a step"""
    search: Literal["gates", "alphas"] = "gates"
    """gates: start with the longest contexts, close the least useful tokens while training. alphas: the
    published supernet, a stage before training"""
    budget: Literal["auto"] | Annotated[float, Between(0, 1_000_000)] = 1 / 3
    """context tokens in all layers of both branches: up to 1 a share of the longest everywhere, above 1 their
    number; auto: the smallest size as good as the best on validation images, within one standard error; for
    gates"""
    fresh: bool = False
    """train new prompts with the lengths that the gates found, instead of keeping those of the search"""
    text_max: Annotated[int, Between(0, 100)] = 6
    """longest context that a text layer may get"""
    vision_max: Annotated[int, Between(0, 100)] = 6
    """longest context that a vision layer may get"""
    text_lengths: tuple[Length, ...] = ()
    """context length of every text layer; given with vision_lengths, nothing is searched"""
    vision_lengths: tuple[Length, ...] = ()
    """context length of every vision layer"""
    search_epochs: Epochs = 80
    """epochs of the search for alphas"""
    alpha_lr: Rate = 0.0035
    """learning rate of the alphas (Adam, betas 0.5 and 0.999)"""
    ctx_init: str = "a photo of a"
    """words whose hidden states in each layer start its text prompt, over and over; empty for random
    tokens, as published"""
    text: Literal["default", "custom", "ensemble"] = "default"
    """the frozen words: "a photo of a {}.", the data set's template, or the mean of embedded templates"""
    distill: float = 0.0
    """weight of KL(zero-shot CLIP || student) over the logits in the train stage"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget != "auto" and self.budget > 1 and self.budget != int(self.budget):
            raise UserError(f"budget {self.budget:g}: give a share up to 1, or a whole number of tokens")
        if not (self.text_lengths or self.vision_lengths or self.text_max or self.vision_max):
            raise UserError("text_max 0 and vision_max 0: there is nothing to search, raise one of them")

    def tokens(self, room: int) -> int | None:
        """The budget as a number of tokens, at least one and at most ``room``; ``None`` for auto."""
        if self.budget == "auto":
            return None
        wanted = self.budget * room if self.budget <= 1 else self.budget
        return min(max(round(wanted), 1), room)


PAPER = {"search": "alphas", "ctx_init": ""}
"""The search and the train stage as published, whatever the defaults."""
RETIRED = frozenset(
    {"warmup", "nested", "sampled", "patience", "share", "inherit", "text_start", "vision_start"}
)
"""Settings of the search that older versions had; what they found is in the lengths."""
