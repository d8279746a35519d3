"""What DPL's key/value prompts start from in the text branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.methods.rows import random_tokens

WORDS_SIZE = 0.05
"""Root mean square of the hidden states that text prompts start from, beside noise of 0.02."""


def text_tokens(encoder: Encoder, words: str, lengths: Sequence[int]) -> list[nn.Parameter]:
    """Text prompts (n, D) of every layer: N(0, 0.02^2), around the words' hidden states there if any.

    Keys and values made of random tokens hurt the frozen text branch, the more the more there are: with
    12 a layer the toy backbone loses up to two fifths of its zero-shot accuracy before the first step. A
    layer's own hidden states leave it nearly as it is. The norm in front of keys and values forgets their
    size; they are made small, so that a learning rate turns them about as fast as random tokens.

    Raises:
        UserError: words without a token.
    """
    prompts = [random_tokens(n, encoder.backbone.text_width, encoder) for n in lengths]
    if words and prompts:
        for prompt, states in zip(prompts, encoder.word_states(words), strict=True):
            if not len(states):
                raise UserError(f"ctx_init '{words}' has no token: give words, or leave it empty")
            directions = states / states.square().mean(-1, keepdim=True).sqrt()  # (words, D)
            prompt.data += WORDS_SIZE * directions[torch.arange(len(prompt)) % len(directions)]
    return prompts
