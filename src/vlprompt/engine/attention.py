"""The attention function: all that prompt learning asks of a transformer's attention.

One function serves every stock model; it is registered with ``transformers.AttentionInterface`` beside
the backbones. What a layer shall do beyond plain attention reaches it as the keyword ``prompt`` (an
:class:`AttentionPrompt`), so nothing is stored on the model and nothing has to be undone.

Three things are new to plain attention:

* **Packed causal text.** ``[prefix | suffix 1 | ... | suffix K]`` stands in one row. Every suffix
  sees the prefix and itself, so the prefix is computed once for all classes and no padding exists.
  A small pack is one attention with a mask, which takes few operators; a large one is done suffix by
  suffix, which computes no score in vain.
* **Key/value prompts.** Extra keys and values that every query sees and that have no output
  position; as one prompt, or as DPL's mixture over prompts of different lengths.
* **Shifts** of queries, keys and values: what stands beside the projections.

Shapes: B rows, h heads, T sequence positions, d head width, c prompt keys, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from vlprompt.engine.devices import made_once

NAME = "vlprompt"
SMALL = 256
"""Positions up to which a pack is one attention with a mask; beyond, on a CPU, suffix by suffix is faster."""
_record: ContextVar[list[Tensor] | None] = ContextVar("record", default=None)


@dataclass(frozen=True)
class Pack:
    """Layout of one packed row: a prefix, then suffixes ordered by length.

    Args:
        prefix: number of leading positions common to all sequences (0 is allowed).
        groups: ``(count, length)`` of neighbouring suffixes of equal length, in order.
        causal: whether a position sees only what stands before it; otherwise all of its own suffix.
    """

    prefix: int
    groups: tuple[tuple[int, int], ...]
    causal: bool = True

    @property
    def ends(self) -> list[int]:
        """Where the last token of each suffix is."""
        lengths = [length for count, length in self.groups for _ in range(count)]
        return [self.prefix - 1 + end for end in accumulate(lengths)]

    def positions(self, device: torch.device) -> Tensor:
        """Position of each entry in its own sequence, (T,)."""
        return _positions(self, device)

    def mask(self, query: Tensor, before: int) -> Tensor:
        """What is added to scores (Q, before + T): -inf where a query does not see a key, else 0.

        Args:
            query: (B, h, Q, d), of every position or of the last of each suffix (:attr:`ends`).
            before: keys in front of the pack's own, which every position sees.
        """
        return _mask(self, query.shape[2], before, query.device, query.dtype)

    def means(self, hidden: Tensor) -> Tensor:
        """The mean over each suffix: (B, T, D) -> (B, number of suffixes, D); there must be no prefix."""
        each = tuple(length for count, length in self.groups for _ in range(count))
        owner, lengths = _owners(each, hidden.device), _numbers(each, hidden.device)
        sums = hidden.new_zeros(len(hidden), len(lengths), hidden.shape[-1]).index_add(1, owner, hidden)
        return sums / lengths[:, None]


@made_once
def _positions(pack: Pack, device: torch.device) -> Tensor:
    suffixes = (torch.arange(length).repeat(count) for count, length in pack.groups)
    return torch.cat([torch.arange(pack.prefix), *(pack.prefix + each for each in suffixes)]).to(device)


@made_once
def _mask(pack: Pack, queries: int, before: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    lengths = [length for count, length in pack.groups for _ in range(count)]
    owner = torch.tensor([0] * pack.prefix + [i for i, n in enumerate(lengths, 1) for _ in range(n)])
    seen = (owner == 0) | (owner == owner[:, None])  # (T, T)
    seen = seen.tril() if pack.causal else seen
    seen = seen if queries == len(seen) else seen[pack.ends]
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)
    return nn.functional.pad(mask, (before, 0)).to(device)


@made_once
def _numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


@made_once
def _owners(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Which of several parts of these lengths each position belongs to."""
    return torch.tensor([index for index, length in enumerate(lengths) for _ in range(length)], device=device)


@dataclass(frozen=True)
class AttentionPrompt:
    """What one layer's attention does beyond plain attention over its rows.

    Args:
        pack: layout of packed causal text; ``None`` means that every position sees every other.
        key, value: (h, c, d) key/value prompt, or (B, h, c, d) of its own for each row; or the candidates'
            prompts one after the other.
        lengths: context length of each candidate, adding up to c. Needed with ``weights``.
        weights: (C+1,) mixture weights, softmax(alpha) of DPL; entry 0 is plain attention.
            ``None``: the key/value prompt is simply there.
        log_gates: (c,) or (B, c), added to the scores of the prompt's keys; not with ``weights``.
    """

    pack: Pack | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    lengths: tuple[int, ...] = ()
    weights: Tensor | None = None
    log_gates: Tensor | None = None
    shifts: tuple[Tensor | None, ...] = (None, None, None)
    """(B, T, h * d) that is added to the queries (B, Q, h * d), keys and values"""

    @property
    def bias(self) -> Tensor | None:
        """The gates as a term of the scores, (B or 1, 1, 1, c)."""
        return None if self.log_gates is None else self.log_gates.reshape(-1, 1, 1, self.log_gates.shape[-1])


@dataclass(frozen=True)
class Shared:
    """Keys and values (B, h, S, d) that every position sees, S may be 0; ``bias`` (B or 1, 1, 1 or Q, S) is
    a term of their scores."""

    key: Tensor
    value: Tensor
    bias: Tensor | None = None

    def scores(self, query: Tensor, scaling: float) -> Tensor:
        """(B, h, Q, d) -> (B, h, Q, S), at least float32."""
        scores = upcast(query @ self.key.mT * scaling)
        return scores if self.bias is None else scores + self.bias

    def followed_by(self, key: Tensor, value: Tensor) -> Shared:
        """These, and then others (B, h, T, d) without a term."""
        if not self.key.shape[2]:
            return Shared(key, value)
        bias = None if self.bias is None else nn.functional.pad(self.bias, (0, key.shape[2]))
        return Shared(torch.cat([self.key, key], 2), torch.cat([self.value, value], 2), bias)

    def masked(self, mask: Tensor) -> Shared:
        """These, of which each query sees what a mask (Q, S) lets it."""
        return replace(self, bias=mask if self.bias is None else mask + self.bias)


def attend(query: Tensor, seen: Shared, scaling: float) -> tuple[Tensor, Tensor]:
    """Softmax attention of (B, h, Q, d) with the log of its normaliser.

    Returns:
        Output (B, h, Q, d) and log-sum-exp of the scores (B, h, Q), the latter at least float32.
    """
    scores = seen.scores(query, scaling)  # (B, h, Q, S)
    lse = scores.logsumexp(-1)  # (B, h, Q)
    return (scores - lse[..., None]).exp().to(seen.value.dtype) @ seen.value, lse


def attend_branches(
    query: Tensor, key: Tensor, value: Tensor, shared: Shared, length: int, scaling: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of n branches of one length, each after the same shared keys.

    Args:
        query: (B, h, n * m, d), branch after branch: the last m positions of each, 1 <= m <= length.
        key, value: (B, h, n * length, d), branch after branch.
        shared: what every position sees.

    Returns:
        Output (B, h, n * m, d) and log-sum-exp (B, h, n * m).
    """
    k, v = (x.unflatten(2, (-1, length)) for x in (key, value))  # (B, h, n, length, d)
    q = query.unflatten(2, (k.shape[2], -1))  # (B, h, n, m, d)
    own = upcast(q @ k.mT * scaling)  # (B, h, n, m, length)
    if causal:
        future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)[-q.shape[3] :]
        own = own.masked_fill(future, -torch.inf)
    own = own.flatten(2, 3)  # (B, h, n*m, length)
    seen = shared.scores(query, scaling)  # (B, h, n*m, S)
    scores = torch.cat([seen, own], -1)
    lse = scores.logsumexp(-1)
    weight = (scores - lse[..., None]).exp().to(value.dtype)
    of_shared, of_own = weight.split([seen.shape[-1], length], -1)
    return of_shared @ shared.value + (of_own.unflatten(2, q.shape[2:4]) @ v).flatten(2, 3), lse


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, shared: Shared, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention over a pack: the prefix, then each suffix after the prefix.

    Args:
        query: (B, h, Q, d), every position or only the last of each suffix (``pack.ends``).
        key, value: (B, h, T, d) with T as ``pack`` lays it out.
        shared: what every position sees, prefix included.

    Returns:
        Output (B, h, Q, d) and log-sum-exp (B, h, Q).
    """
    sizes = [pack.prefix, *(count * length for count, length in pack.groups)]
    asked = sizes if query.shape[2] == key.shape[2] else [0, *(count for count, _ in pack.groups)]
    parts = list(zip(query.split(asked, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True))
    (prefix_q, prefix_k, prefix_v), suffixes = parts[0], parts[1:]
    done = []
    if asked[0]:
        done.append(attend_branches(prefix_q, prefix_k, prefix_v, shared, pack.prefix, scaling, pack.causal))
    shared = shared.followed_by(prefix_k, prefix_v)
    for (q, k, v), (_, length) in zip(suffixes, pack.groups, strict=True):
        done.append(attend_branches(q, k, v, shared, length, scaling, pack.causal))
    return torch.cat([o for o, _ in done], 2), torch.cat([lse for _, lse in done], 2)


def mix(output: Tensor, lse: Tensor, query: Tensor, prompt: AttentionPrompt, scaling: float) -> Tensor:
    """DPL's mixture over context lengths in one pass (arXiv 2501.00457, supernet).

    With Z the normaliser of plain attention and Z_c that of candidate c's own keys, attention over
    both sets of keys is ``Z/(Z+Z_c) * output + Z_c/(Z+Z_c) * output_c``. So the sum over candidates
    of weight times attention needs plain attention once, plus one pass over all prompt keys:
    ``Z_c/(Z+Z_c) = sigmoid(log Z_c - log Z)``, which cannot overflow.

    Args:
        output, lse: plain attention (B, h, T, d) and its log-sum-exp (B, h, T), T queries.
        query: (B, h, T, d).
        prompt: the candidates' keys, values, lengths and weights.

    Returns:
        The mixture (B, h, T, d).
    """
    assert prompt.key is not None and prompt.value is not None and prompt.weights is not None
    scores = upcast(query @ prompt.key.mT * scaling)  # (B, h, T, c)
    lse_c = torch.stack([s.logsumexp(-1) for s in scores.split(prompt.lengths, -1)], -1)  # (B, h, T, C)
    share = (lse_c - lse[..., None]).sigmoid()  # (B, h, T, C)
    weights = prompt.weights.to(share.dtype)
    plain = weights[0] + (1 - share) @ weights[1:]  # (B, h, T)
    owner = _owners(prompt.lengths, query.device)  # (c,)
    own = (scores - lse_c[..., owner]).exp() * (weights[1:] * share)[..., owner]  # (B, h, T, c)
    return plain[..., None].to(output.dtype) * output + own.to(output.dtype) @ prompt.value


def prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prompt: AttentionPrompt | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of a stock model's layer, with what ``prompt`` adds to it.

    Args:
        query: (B, h, Q, d). key, value: (B, h, T, d), or fewer heads, each for a group of queries' heads.
            Q is T or, in the last layer, what is read of it.
        prompt: ``None`` gives the model's ordinary attention.

    Returns:
        ((B, Q, h, d), None), as ``transformers`` expects.
    """
    if prompt is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (
        x if shift is None else x + heads(shift, x.shape[-1]).to(x.dtype)
        for x, shift in zip((query, key, value), prompt.shifts, strict=True)
    )
    if (group := query.shape[1] // key.shape[1]) > 1:  # queries of a group share a key's head
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        if prompt.key is not None and prompt.value is not None:
            own = prompt.key.repeat_interleave(group, -3), prompt.value.repeat_interleave(group, -3)
            prompt = replace(prompt, key=own[0], value=own[1])
    shared = Shared(key[:, :, :0], value[:, :, :0])
    if prompt.key is not None and prompt.value is not None and prompt.weights is None:
        rows = query.shape[0]
        shared = Shared(
            prompt.key.expand(rows, -1, -1, -1), prompt.value.expand(rows, -1, -1, -1), prompt.bias
        )
    output = _attend(query, key, value, prompt, shared, scaling)
    return output.transpose(1, 2), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, prompt: AttentionPrompt, shared: Shared, scaling: float
) -> Tensor:
    """Attention (B, h, Q, d) to the shared keys and to those that ``prompt`` lets each query see."""
    pack, mixed = prompt.pack, prompt.weights is not None
    if pack is not None and key.shape[2] > SMALL:
        output, lse = attend_packed(query, key, value, pack, shared, scaling)
        return mix(output, lse, query, prompt, scaling) if mixed else output
    seen = shared.followed_by(key, value)
    if pack is not None:
        seen = seen.masked(pack.mask(query, shared.key.shape[2]))
    if mixed:
        return mix(*attend(query, seen, scaling), query, prompt, scaling)
    return _attend_fused(query, seen, scaling, image=pack is None)


@contextmanager
def record_attention() -> Iterator[list[Tensor]]:
    """A list that fills with the attention probabilities (B, h, Q, c + T) of every layer that sees an image.

    Keys of prompts stand first. Nothing about the model changes: other threads compute as ever and do not
    fill this list. A supernet's mixture is not recorded; it is searched, never used as a classifier.
    """
    record: list[Tensor] = []
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


def _attend_fused(query: Tensor, seen: Shared, scaling: float, image: bool) -> Tensor:
    """Softmax attention of (B, h, Q, d) in one operator; an image's probabilities are recorded if asked."""
    traced = torch.compiler.is_compiling()  # no exporter can trace what follows
    record = None if traced or not image else _record.get()
    if record is None:
        return nn.functional.scaled_dot_product_attention(
            query, seen.key, seen.value, seen.bias, scale=scaling
        )
    probability = seen.scores(query, scaling).softmax(-1).to(query.dtype)  # (B, h, Q, S)
    record.append(probability)
    return probability @ seen.value


def heads(x: Tensor, width: int) -> Tensor:
    """(..., T, h * d) -> (..., h, T, d) with d = ``width``."""
    return x.unflatten(-1, (-1, width)).transpose(-3, -2)


def upcast(x: Tensor) -> Tensor:
    """At least float32, in which softmax, norms of features and logits are done."""
    return x if x.dtype == torch.float64 else x.float()
