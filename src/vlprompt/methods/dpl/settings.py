"""DPL's settings: this project's defaults, and the published ones as a preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlprompt.errors import UserError
from vlprompt.methods import base


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """DPL."""

    lr: float = 0.0035
    """learning rate of the prompts, in both stages"""
    epochs: int = 40
    """epochs of the train stage"""
    batch_size: int = 4
    """images a step"""
    search_epochs: int = 80
    """epochs of the search stage"""
    alpha_lr: float = 0.0035
    """learning rate of the alphas (Adam, betas 0.5 and 0.999)"""
    text_max: int = 6
    """longest context that a text layer may get"""
    vision_max: int = 6
    """longest context that a vision layer may get"""
    warmup: float = 2 / 3
    """share of the search's epochs in which the prompts learn and the alphas wait"""
    nested: bool = True
    """a context of length c is the beginning of the longest one, so that all lengths learn together"""
    sampled: bool = True
    """prompts and alphas learn with one length a layer instead of in the mixture: prompts with the longest
    everywhere or, in half of the steps, with any; alphas with lengths drawn from softmax(alpha)"""
    patience: int = 10
    """end the search when the lengths have been the same for so many epochs; 0 is never"""
    share: float = 0.25
    """take the longest context whose weight is at least this share of its layer's largest: below 1, a
    shorter one must be clearly better; 1 is the argmax, as published"""
    budget: int = 0
    """largest number of context tokens in all layers of both branches; 0 is no limit"""
    inherit: bool = False
    """start the train stage from the supernet's prompts; with epochs=0 they stay as they are"""
    text_start: tuple[int, ...] = ()
    """lengths of another data set that the search of the text branch starts from"""
    vision_start: tuple[int, ...] = ()
    """lengths of another data set that the search of the vision branch starts from"""
    text_lengths: tuple[int, ...] = ()
    """context length of every text layer; given with vision_lengths, nothing is searched"""
    vision_lengths: tuple[int, ...] = ()
    """context length of every vision layer"""
    ctx_init: str = "a photo of a"
    """words whose hidden states in each layer start its text prompt, over and over; empty for random
    tokens, as published. In the search only where nested"""
    text: Literal["default", "custom", "ensemble"] = "default"
    """the frozen words: "a photo of a {}.", the data set's template, or the mean of embedded templates"""
    distill: float = 0.0
    """weight of KL(zero-shot CLIP || student) over the logits in the train stage"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup", "share"):
            if getattr(self, name) > 1:
                raise UserError(f"{name} {getattr(self, name):g}: give a share from 0 to 1")


PAPER = {
    "warmup": 0.0, "nested": False, "sampled": False, "patience": 0, "share": 1.0, "ctx_init": ""
}  # fmt: skip
"""The search and the train stage as published, whatever the defaults."""
