"""What methods with ordinary tokens in every layer share (IVLP, MaPLe, VPT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.lengths import check_lengths
from vlprompt.methods.rows import random_tokens
from vlprompt.typed import BatchSize, Between, Epochs, Length, Rate


@dataclass(frozen=True, kw_only=True)
class VisualSettings(base.Settings):
    """Training through the image branch: few images a step, few epochs."""

    lr: Rate = 0.0035
    """learning rate of SGD"""
    epochs: Epochs = 5
    """passes over the training images"""
    batch_size: BatchSize = 4
    """images a step"""


@dataclass(frozen=True, kw_only=True)
class DeepSettings(VisualSettings):
    """Deep prompts in both branches."""

    n_ctx: Length = 2
    """context length in every prompted layer of both branches"""
    depth: Annotated[int, Between(1, 1000)] = 12
    """prompted layers of both branches; more than the backbone has means all (9 in later work)"""
    ctx_init: str = "a photo of a"
    """words of the prompt; the first n_ctx of their tokens start the context, the rest stays frozen"""
    text_lengths: tuple[Length, ...] = ()
    """context length of every text layer, e.g. those that a search found; replaces n_ctx and depth"""


def deep_tokens(encoder: Encoder, lengths: Sequence[int], width: int) -> nn.ParameterList:
    """Tokens (n, width) for each n in ``lengths``: one layer after the other."""
    return nn.ParameterList(random_tokens(n, width, encoder) for n in lengths)


def layer_lengths(lengths: Sequence[int], n_ctx: int, depth: int, layers: int, branch: str) -> list[int]:
    """Context length of each prompted layer: as given for every layer, or ``n_ctx`` in the first ``depth``.

    Raises:
        UserError: a depth below one; lengths for another number of layers.
    """
    if lengths:
        check_lengths(lengths, layers, branch)
        return list(lengths)
    if depth < 1:
        raise UserError(f"depth {depth} in the {branch} branch: give 1 to {layers}")
    return [n_ctx] * min(depth, layers)


def words_within(encoder: Encoder, words: str, n_ctx: int) -> str:
    """The words that a context of this length starts from; none where it is longer than they are."""
    return words if len(encoder.body(words)) >= n_ctx else ""


def later_layer(number: int, layers: int, branch: str) -> int:
    """Index from 0 of layer ``number`` (from 1), or of the last where there are fewer; never the first.

    Raises:
        UserError: the first layer, or a backbone with one.
    """
    if number < 2 or layers < 2:
        raise UserError(
            f"layer {number} of {layers} in the {branch} branch: tokens can enter from layer 2 on"
        )
    return min(number, layers) - 1
