"""What a learned context looks like in words, by the nearest tokens of the vocabulary.

Shapes: M context tokens, V tokens of the vocabulary, D text width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.engine.packing import context_slot
from vlprompt.methods.base import Method

CHUNK = 64
"""Context tokens that are compared with the vocabulary at once."""


@dataclass(frozen=True)
class Near:
    """A token of the vocabulary and how near it is.

    Args:
        word: the token as text.
        distance: Euclidean distance of the embeddings, as CoOp's authors measure it.
        cosine: their cosine.
    """

    word: str
    distance: float
    cosine: float


@dataclass(frozen=True)
class TokenWords:
    """One context token in words.

    Args:
        number: place in the context, from 1.
        class_name: the class whose context it belongs to; empty where all classes share it.
        by_distance, by_cosine: the nearest tokens of the vocabulary, nearest first.
    """

    number: int
    class_name: str
    by_distance: tuple[Near, ...]
    by_cosine: tuple[Near, ...]


@torch.no_grad()
def nearest_words(method: Method, top: int = 5) -> list[TokenWords]:
    """The vocabulary's nearest tokens for each learned context token; empty without a learned context.

    Only the context at the input lives among the word embeddings; deeper tokens have no words.

    Args:
        top: number of tokens for each context token.
    """
    context = learned_context(method)
    if context is None:
        return []
    words = _vocabulary(method)
    embeddings = method.encoder.embed(range(len(words))).float()  # (V, D)
    distance, cosine = [], []
    for tokens in context.float().split(CHUNK):  # (CHUNK, D)
        # The way by matrix products is inexact where a distance is near zero, as at the start of training.
        distance.append(torch.cdist(tokens, embeddings, compute_mode="donot_use_mm_for_euclid_dist"))
        cosine.append(F.normalize(tokens, dim=-1) @ F.normalize(embeddings, dim=-1).T)
    return list(_describe(method, words, torch.cat(distance), torch.cat(cosine), top))


def learned_context(method: Method) -> Tensor | None:
    """The learned text context (M, D) at the input; ``None`` where a method has none, or a frozen one."""
    with torch.enable_grad():
        prompt = method.text_prompt()
    # A context that depends on the image (CoCoOp) is in no prompt; `ctx` is the part that all images share.
    context = prompt.context if prompt else getattr(method, "ctx", None)
    return context.detach() if context is not None and context.requires_grad else None


def _describe(
    method: Method, words: list[str], distance: Tensor, cosine: Tensor, top: int
) -> Iterator[TokenWords]:
    """Context tokens in the order of the classes; distances and cosines are (M, V)."""
    owners: dict[int, list[str]] = {}
    numbers: dict[int, int] = {}
    for class_name, row in zip(method.classnames, method.sequences, strict=True):
        slots = [context_slot(entry) for entry in row if entry < 0]  # context_slot is its own inverse
        for number, slot in enumerate(slots, 1):
            owners.setdefault(slot, []).append(class_name)
            numbers[slot] = number

    def near(slot: int, order: Tensor) -> tuple[Near, ...]:
        return tuple(Near(words[i], distance[slot, i].item(), cosine[slot, i].item()) for i in order.tolist())

    for slot, classes in owners.items():
        shared = len(classes) == len(method.classnames)
        yield TokenWords(
            numbers[slot],
            "" if shared else classes[0],
            near(slot, distance[slot].argsort()[:top]),
            near(slot, cosine[slot].argsort(descending=True)[:top]),
        )


def _vocabulary(method: Method) -> list[str]:
    """Every token as text or, where that cannot be shown (part of a character), as the tokenizer has it."""
    tokenizer = method.encoder.backbone.tokenizer
    ids = range(len(tokenizer))
    texts = [tokenizer.decode([i]).strip() for i in ids]
    return [
        text if text and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else token
        for text, token in zip(texts, tokenizer.convert_ids_to_tokens(list(ids)), strict=True)
    ]
