"""How class sequences stand in one packed row: computed from token ids alone, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from vlprompt.engine.attention import Pack
from vlprompt.engine.devices import made_once

CPU = torch.device("cpu")
Row = tuple[int, ...]
"""One sequence: token ids, and ``context_slot(i)`` where row i of a context tensor stands."""


def context_slot(index: int) -> int:
    """The entry of a :data:`Row` that stands for row ``index`` of the context."""
    return -1 - index


@dataclass(frozen=True)
class Plan:
    """How K sequences are packed: computed from integers alone, once, and then kept on the device.

    Args:
        pack: prefix and groups of suffixes.
        ids: (T,) the pack's token ids; 0 in context slots.
        slots: where the context slots are, and the row of the context that each stands for.
        positions: (T,) position of each entry in its own sequence.
        owners: (K,) which suffix each sequence has; equal sequences share one.
        order: ``owners`` as numbers.
    """

    pack: Pack
    ids: Tensor
    slots: tuple[Tensor, Tensor]
    positions: Tensor
    owners: Tensor
    order: tuple[int, ...]

    @staticmethod
    def of(rows: Sequence[Row], share: bool = True, causal: bool = True, device: torch.device = CPU) -> Plan:
        """Pack sequences: longest common prefix, then the distinct suffixes ordered by length.

        Args:
            share: otherwise there is no prefix, and equal sequences stand side by side.
            causal: otherwise positions of a sequence all see each other, and nothing is shared.
        """
        plan = _plan(tuple(rows), share and causal, device)
        return replace(plan, pack=replace(plan.pack, causal=causal))

    @staticmethod
    def padded(rows: Sequence[Row], length: int, pad: int, device: torch.device = CPU) -> Plan:
        """Sequences filled up to one length whose positions all see each other: nothing is shared or cut."""
        filled = [(*row, *(pad,) * (length - len(row))) for row in rows]
        return Plan.of(filled, causal=False, device=device)

    @property
    def ends(self) -> Tensor:
        """Where the last token of each suffix is, (number of suffixes,)."""
        return _ends(self.pack, self.owners.device)

    def resized(self, more: int) -> Plan:
        """The plan with ``more`` (or fewer) tokens in the prefix."""
        return replace(self, pack=replace(self.pack, prefix=self.pack.prefix + more))

    def apart(self, start: int, standing: int, count: int) -> tuple[Plan, Tensor]:
        """From position ``start`` on every sequence on its own, with tokens that none shares.

        Args:
            standing: tokens at ``start`` that give way.
            count: tokens of its own that each sequence gets there.

        Returns:
            The new plan, and (T',) where its entries stand in [the old pack's T, sequence by sequence its
            own tokens].
        """
        pack, order, index = _apart(self.pack, self.order, start, standing, count, self.owners.device)
        return replace(self, pack=pack, owners=order), index


@made_once
def _plan(rows: tuple[Row, ...], share: bool, device: torch.device) -> Plan:
    if not share:
        order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
        pack = Pack(0, _groups([len(rows[k]) for k in order]))
        places = [place for k in order for place in range(len(rows[k]))]
        return _on(device, pack, [entry for k in order for entry in rows[k]], places, _inverse(order))
    first, last = min(rows), max(rows)
    shortest = min(map(len, rows))
    common = next((i for i in range(shortest) if first[i] != last[i]), shortest)
    prefix = min(common, shortest - 1)  # every suffix keeps at least its end-of-text token
    suffixes = sorted({row[prefix:] for row in rows}, key=lambda s: (len(s), s))
    groups = _groups(list(map(len, suffixes)))
    entries, positions = list(rows[0][:prefix]), list(range(prefix))
    for suffix in suffixes:
        entries += suffix
        positions += range(prefix, prefix + len(suffix))
    index = {suffix: i for i, suffix in enumerate(suffixes)}
    return _on(device, Pack(prefix, groups), entries, positions, [index[row[prefix:]] for row in rows])


def _on(
    device: torch.device,
    pack: Pack,
    entries: Sequence[int],
    positions: Sequence[int],
    owners: Sequence[int],
) -> Plan:
    """A plan with its tensors on a device."""
    slots = [place for place, entry in enumerate(entries) if entry < 0]
    rows = [-1 - entries[place] for place in slots]

    def there(numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=device)

    ids = there([max(entry, 0) for entry in entries])
    both = there(slots), there(rows)
    return Plan(pack, ids, both, there(positions), there(owners), tuple(owners))


def _inverse(order: Sequence[int]) -> list[int]:
    """Where each number stands in an order of them."""
    place = [0] * len(order)
    for index, number in enumerate(order):
        place[number] = index
    return place


@made_once
def _ends(pack: Pack, device: torch.device) -> Tensor:
    return torch.tensor(pack.ends, device=device)


def _groups(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Lengths in order -> how many neighbours have which."""
    return tuple((len(list(same)), length) for length, same in groupby(lengths))


@made_once
def _apart(
    pack: Pack, owners: tuple[int, ...], start: int, standing: int, count: int, device: torch.device
) -> tuple[Pack, Tensor, Tensor]:
    """New pack, which suffix each sequence has in it, and where its entries stood."""
    ends = pack.ends
    begins = [pack.prefix, *(end + 1 for end in ends[:-1])]
    shared, total = min(pack.prefix, start), ends[-1] + 1
    order = sorted(range(len(owners)), key=owners.__getitem__)  # as the suffixes, so by length
    index, lengths = list(range(shared)), []
    for k in order:
        at = [*range(pack.prefix), *range(begins[owners[k]], ends[owners[k]] + 1)]
        fresh = range(total + k * count, total + (k + 1) * count)
        suffix = [*at[:start], *fresh, *at[start + standing :]][shared:]
        index += suffix
        lengths.append(len(suffix))
    made = Pack(shared, _groups(lengths), pack.causal)
    return made, torch.tensor(_inverse(order), device=device), torch.tensor(index, device=device)
