"""What is added to a branch: tokens at the input or at deeper layers, keys and values, maps beside layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

Branch = Literal["text", "vision"]
NOWHERE = sys.maxsize
"""The first layer of a prompt that reaches none."""


@dataclass(frozen=True)
class KeyValue:
    """The key/value prompt of one layer.

    Args:
        tokens: (c, D) prompt tokens, or (B, c, D) of its own for each row; with ``weights``, the
            candidates' tokens one after the other.
        weights: (C+1,) mixture weights over "none" and the C candidates (DPL's supernet).
        lengths: context length of each candidate; needed with ``weights``.
    """

    tokens: Tensor
    weights: Tensor | None = None
    lengths: tuple[int, ...] = ()
    log_gates: Tensor | None = None
    """(c,) or (B, c): log of a gate in [0, 1] on each token; 0 is the token, -inf is exactly no token"""

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.tokens.shape[-2]


Map = Callable[[Tensor], Tensor]
"""(..., D) -> (..., D), each position on its own."""


@dataclass(frozen=True)
class Beside:
    """What stands beside one layer: maps of the layer's normed input, added to what its parts give.

    Each position is mapped on its own, so packing, cutting and chunks stay exact.

    Args:
        query, key, value: added to the attention's projections, e.g. low-rank updates of their weights.
        block: added to the layer's output, e.g. an adapter.
        noisy: whether the maps draw random numbers, as dropout does: every sequence then draws its own,
            so none shares a prefix with others.
    """

    query: Map | None = None
    key: Map | None = None
    value: Map | None = None
    block: Map | None = None
    noisy: bool = False


@dataclass(frozen=True)
class Prompt:
    """What is added to one branch.

    Args:
        context: tokens of the input. Text: (M, D), or (B, M, D) for a context of its own per image;
            sequences refer to its rows. Vision: (n, D), appended after the patch tokens.
        deep: ``deep[i]`` (n_i, D) takes the place of the tokens before it, however many they were, at the
            input of layer i + 1; n_i = 0 takes them away, and where none stood it is inserted. Text:
            also (K, n_i, D), of its own for each sequence. ``None`` lets the tokens flow on, as they do
            after the last.
        keys_values: ``keys_values[l]`` is added inside layer l; ``None`` adds nothing there.
        beside: ``beside[l]`` stands beside layer l; ``None`` is nothing.
        place: text: position and number of the input's tokens whose place the first deep tokens take; by
            default the whole context, from position 1 on.
    """

    context: Tensor | None = None
    deep: Sequence[Tensor | None] = ()
    keys_values: Sequence[KeyValue | None] = ()
    beside: Sequence[Beside | None] = ()
    place: tuple[int, int] | None = None

    @property
    def empty(self) -> bool:
        """Whether it adds nothing."""
        return self.context is None and not self.deep and self.first == NOWHERE

    @property
    def rows(self) -> int | None:
        """How many rows have a prompt of their own; ``None`` where all share one."""
        own = [] if self.context is None else [self.context]
        own += [kv.tokens for kv in self.keys_values if kv is not None]
        return next((len(tokens) for tokens in own if tokens.ndim == 3), None)

    @property
    def first(self) -> int:
        """The first layer that it reaches: the hidden states that enter that layer do not depend on it."""
        if self.context is not None:
            return 0
        deep = (i + 1 for i, tokens in enumerate(self.deep) if tokens is not None and tokens.shape[-2])
        inside = (i for i, kv in enumerate(self.keys_values) if kv is not None and kv.count)
        beside = (i for i, maps in enumerate(self.beside) if maps is not None)
        return min((*deep, *inside, *beside), default=NOWHERE)

    @property
    def noisy(self) -> bool:
        """Whether a map beside a layer draws random numbers."""
        return any(maps is not None and maps.noisy for maps in self.beside)

    @property
    def parts_sequences(self) -> bool:
        """Whether from some layer on, or from the first, sequences share no prefix."""
        return self.noisy or any(tokens is not None and tokens.ndim == 3 for tokens in self.deep)

    def of(self, sequences: slice) -> Prompt:
        """What of it belongs to some of the sequences."""
        own = [t[sequences] if t is not None and t.ndim == 3 else t for t in self.deep]
        return replace(self, deep=own)
