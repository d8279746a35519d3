"""How class sequences stand in one packed row: computed from token ids alone, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from vlprompt.engine.attention import Pack

Row = tuple[int, ...]
"""One sequence: token ids, and ``context_slot(i)`` where row i of a context tensor stands."""


def context_slot(index: int) -> int:
    """The entry of a :data:`Row` that stands for row ``index`` of the context."""
    return -1 - index


@dataclass(frozen=True)
class Plan:
    """How K sequences are packed: computed from integers alone, once.

    Args:
        pack: prefix and groups of suffixes.
        entries: (T,) the pack's entries: token ids or context slots.
        positions: (T,) position of each entry in its own sequence.
        owners: (K,) which suffix each sequence has; equal sequences share one.
    """

    pack: Pack
    entries: Tensor
    positions: Tensor
    owners: Tensor

    @staticmethod
    def of(rows: Sequence[Row]) -> Plan:
        """Pack sequences: longest common prefix, then the distinct suffixes ordered by length."""
        return _plan(tuple(rows))


@lru_cache(maxsize=256)
def _plan(rows: tuple[Row, ...]) -> Plan:
    first, last = min(rows), max(rows)
    shortest = min(map(len, rows))
    common = next((i for i in range(shortest) if first[i] != last[i]), shortest)
    prefix = min(common, shortest - 1)  # every suffix keeps at least its end-of-text token
    suffixes = sorted({row[prefix:] for row in rows}, key=lambda s: (len(s), s))
    groups = tuple((len(list(same)), length) for length, same in groupby(map(len, suffixes)))
    entries, positions = list(rows[0][:prefix]), list(range(prefix))
    for suffix in suffixes:
        entries += suffix
        positions += range(prefix, prefix + len(suffix))
    index = {suffix: i for i, suffix in enumerate(suffixes)}
    owners = torch.tensor([index[row[prefix:]] for row in rows])
    return Plan(Pack(prefix, groups), torch.tensor(entries), torch.tensor(positions), owners)
