"""What is added to a branch: tokens at the input or at deeper layers, keys and values inside attention."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

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


@dataclass(frozen=True)
class Prompt:
    """What is added to one branch.

    Args:
        context: tokens of the input. Text: (M, D), or (B, M, D) for a context of its own per image;
            sequences refer to its rows. Vision: (n, D), appended after the patch tokens.
        deep: ``deep[i]`` (n_i, D) takes the place of the context, however long it was, at the input
            of layer i + 1; n_i = 0 takes it away. After the last replaced layer the tokens flow on.
        keys_values: ``keys_values[l]`` is added inside layer l; ``None`` adds nothing there.
    """

    context: Tensor | None = None
    deep: Sequence[Tensor] = ()
    keys_values: Sequence[KeyValue | None] = ()

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
        deep = (index + 1 for index, tokens in enumerate(self.deep) if len(tokens))
        inside = (index for index, kv in enumerate(self.keys_values) if kv is not None and kv.count)
        return min((*deep, *inside), default=NOWHERE)
