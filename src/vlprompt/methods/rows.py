"""Sequences and contexts that methods share: CoOp's rows, contexts from words, random tokens.

Shapes: n context length, D width of a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from vlprompt.engine.encoder import Encoder
from vlprompt.engine.packing import Row, context_slot
from vlprompt.errors import UserError
from vlprompt.methods.templates import fill

Position = Literal["end", "middle", "front"]
"""Where the class name stands: at the end, in the middle or in front of the context."""


def learnable_rows(
    encoder: Encoder,
    classnames: Sequence[str],
    n_ctx: int,
    words: str = "",
    position: Position = "end",
    class_specific: bool = False,
) -> list[Row]:
    """Sequences "start, context, class name, full stop, end" of CoOp (arXiv 2109.01134, section 3.2).

    Args:
        words: the prompt's words; the first n_ctx of their tokens give way to the context, the rest
            stays frozen in front of the class name.
        position: where the class name stands.
        class_specific: class k uses rows k * n_ctx ... of the context instead of sharing one.

    Raises:
        UserError: a sequence would be longer than the backbone's positions.
    """
    names = [fill("{}", name) for name in classnames]
    sentences = encoder.tokenize([f"{words} {name}.".lstrip() for name in names])
    replaced, starts = n_ctx if words else 0, encoder.backbone.starts
    result = []
    for k, (name, sentence) in enumerate(zip(encoder.tokenize(names), sentences, strict=True)):
        offset = k * n_ctx if class_specific else 0
        context = tuple(context_slot(offset + i) for i in range(n_ctx))
        row = _around_context(sentence, starts, context, replaced, len(name) - starts - 1, position)
        result.append(check_length(encoder, row, classnames[k], n_ctx))
    return result


def _around_context(
    sentence: Row, starts: int, context: Row, replaced: int, name: int, position: Position
) -> Row:
    """A sentence whose first ``replaced`` tokens give way to a context; the name has ``name`` tokens."""
    start, body, end = sentence[:starts], sentence[starts + replaced : -1], sentence[-1:]
    before, after = body[:name], body[name:]
    half = len(context) // 2
    return {
        "end": start + context + body + end,
        "middle": start + context[:half] + before + context[half:] + after + end,
        "front": start + before + context + after + end,
    }[position]


def template_rows(encoder: Encoder, classnames: Sequence[str], n_ctx: int, template: str) -> list[Row]:
    """A template's sequences, whose first ``n_ctx`` words' tokens before the name give way to a context.

    Raises:
        UserError: a sequence would be longer than the backbone's positions.
    """
    words = template.split("{}")[0].strip()
    replaced = min(n_ctx, len(encoder.body(words))) if words else 0
    sentences = encoder.tokenize([fill(template, name) for name in classnames])
    context = tuple(context_slot(i) for i in range(n_ctx))
    starts = encoder.backbone.starts
    rows = [row[:starts] + context + row[starts + replaced :] for row in sentences]
    return [check_length(encoder, row, name, n_ctx) for row, name in zip(rows, classnames, strict=True)]


def check_length(encoder: Encoder, row: Row, name: str, n_ctx: int) -> Row:
    """The sequence of a class.

    Raises:
        UserError: it is longer than the backbone's positions.
    """
    if len(row) > encoder.backbone.max_positions:
        raise UserError(
            f"class '{name}' with {n_ctx} context tokens needs {len(row)} positions, the "
            f"backbone has {encoder.backbone.max_positions}: shorten the name or the context"
        )
    return row


def context_parameter(encoder: Encoder, n_ctx: int, words: str = "", copies: int = 1) -> nn.Parameter:
    """A text context (copies * n_ctx, D): the embeddings of words, or N(0, 0.02^2).

    Raises:
        UserError: fewer words than context tokens.
    """
    if n_ctx > encoder.backbone.max_positions:
        raise UserError(
            f"{n_ctx} context tokens: the backbone has {encoder.backbone.max_positions} positions, give fewer"
        )
    if not words:
        return random_tokens(copies * n_ctx, encoder.backbone.text_width, encoder)
    ids = encoder.body(words)
    if len(ids) < n_ctx:
        raise UserError(
            f"'{words}' has {len(ids)} tokens, the context {n_ctx}: give more words or lower n_ctx"
        )
    return nn.Parameter(encoder.embed(ids[:n_ctx]).detach().float().repeat(copies, 1))


def random_tokens(count: int, width: int, encoder: Encoder, std: float = 0.02) -> nn.Parameter:
    """Learnable tokens (count, width) from N(0, std^2), drawn on the CPU so that a device does not matter."""
    return nn.Parameter((torch.randn(count, width) * std).to(encoder.backbone.device))
