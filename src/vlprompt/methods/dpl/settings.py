"""DPL's settings: this project's defaults, and the published ones as a preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vlprompt.methods import base
from vlprompt.typed import BatchSize, Between, Epochs, Length, Rate, Share


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """DPL."""

    lr: Rate = 0.0035
    """learning rate of the prompts, in both stages"""
    epochs: Epochs = 40
    """epochs of the train stage"""
    batch_size: BatchSize = 4
    """images a step"""
    search_epochs: Epochs = 80
    """epochs of the search stage"""
    alpha_lr: Rate = 0.0035
    """learning rate of the alphas (Adam, betas 0.5 and 0.999)"""
    text_max: Annotated[int, Between(0, 100)] = 6
    """longest context that a text layer may get"""
    vision_max: Annotated[int, Between(0, 100)] = 6
    """longest context that a vision layer may get"""
    warmup: Share = 2 / 3
    """share of the search's epochs in which the prompts learn and the alphas wait"""
    nested: bool = True
    """a context of length c is the beginning of the longest one, so that all lengths learn together"""
    sampled: bool = True
    """prompts and alphas learn with one length a layer instead of in the mixture: prompts with the longest
    everywhere or, in half of the steps, with any; alphas with lengths drawn from softmax(alpha)"""
    patience: int = 10
    """end the search when the lengths have been the same for so many epochs; 0 is never"""
    share: Share = 0.25
    """take the longest context whose weight is at least this share of its layer's largest: below 1, a
    shorter one must be clearly better; 1 is the argmax, as published"""
    budget: int = 0
    """largest number of context tokens in all layers of both branches; 0 is no limit"""
    inherit: bool = False
    """start the train stage from the supernet's prompts; with epochs=0 they stay as they are"""
    text_start: tuple[Length, ...] = ()
    """lengths of another data set that the search of the text branch starts from"""
    vision_start: tuple[Length, ...] = ()
    """lengths of another data set that the search of the vision branch starts from"""
    text_lengths: tuple[Length, ...] = ()
    """context length of every text layer; given with vision_lengths, nothing is searched"""
    vision_lengths: tuple[Length, ...] = ()
    """context length of every vision layer"""
    ctx_init: str = "a photo of a"
    """words whose hidden states in each layer start its text prompt, over and over; empty for random
    tokens, as published. In the search only where nested"""
    text: Literal["default", "custom", "ensemble"] = "default"
    """the frozen words: "a photo of a {}.", the data set's template, or the mean of embedded templates"""
    distill: float = 0.0
    """weight of KL(zero-shot CLIP || student) over the logits in the train stage"""


PAPER = {
    "warmup": 0.0, "nested": False, "sampled": False, "patience": 0, "share": 1.0, "ctx_init": ""
}  # fmt: skip
"""The search and the train stage as published, whatever the defaults."""
