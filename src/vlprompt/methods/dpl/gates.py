"""Which tokens a searching DPL has: all at first, and ever fewer as training shows which are of little use.

Within one layer prompt tokens are a set of keys and values. Token j has a gate g_j: log g_j is added to its
scores, so that 1 is the token and 0 is exactly no token. How much the loss depends on a token is, to first
order, |dL/d log g_j|, one number for every token of both branches from the backward pass that training does
anyway. It is noisy, so it is averaged over steps; and it says little about tokens that stand in for each
other, so they go a few at a time, with training between, as ranks do in AdaLoRA (arXiv 2303.10512). The sign
is left out: a batch of a few images that would do without a token says little (docs/methods.md).

Whether there is anything to decide is asked as well: the even steps of an epoch and the odd ones see other
images. Where they do not agree on what the layers are worth, tokens go evenly.

Without a budget the number of tokens is open too: after the beginning, steps have a few sizes in turn, each
the most useful tokens so far, as in slimmable networks (arXiv 1903.05134), until one is chosen
(:mod:`vlprompt.methods.dpl.path`). Three steps of four have them all: tokens that only the larger sizes have
would be trained too little for their worth to show.

Shapes: L layers of both branches, text first; C longest context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEMORY = 0.95
"""Of the running mean of worth, a step."""
BEGIN, END = 0.1, 0.6
"""Shares of training between which tokens go."""
SIZES = (1, 2 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 12)
"""Shares of the longest everywhere that are tried where no budget is given."""
TURN = 4
"""Steps of which one has a smaller size while sizes are tried, and the others have all tokens."""
AGREEMENT = 0.3
"""Least correlation between halves of the images about the layers, for their places to be decided."""


class Gates(nn.Module):
    """The gates, and what is known of each token's worth.

    Args:
        longest: (L,) longest context of each layer.
        budget: number of tokens to be left at the most; ``None`` leaves it to :meth:`choose`.
        portions: (L, C) whole numbers; tokens of one number open and close together. By default each token
            is a portion: this is what makes another search space.
    """

    def __init__(self, longest: Tensor, budget: int | None, portions: Tensor | None = None):
        super().__init__()
        device, width = longest.device, int(longest.max()) if len(longest) else 0
        every = torch.arange(width, device=device) < longest[:, None]  # (L, C)
        self.every, self.full = every, int(every.sum())
        self.sizes = sorted({min(max(round(share * self.full), 1), self.full) for share in SIZES})
        self.probe = nn.Parameter(torch.zeros(every.shape, device=device))
        """Log of the gates of open tokens: never moved, its gradient is what is read."""
        each = torch.arange(every.numel(), device=device).view(every.shape)
        self.followed: int | None = None
        """How many tokens were left by the schedule; while it wants no fewer, nothing asks the device."""
        self.free = portions is None
        self.portions = each if portions is None else portions.to(device)
        self.open: Tensor
        self.worth: Tensor
        self.clock: Tensor
        self.size: Tensor
        self.halves: Tensor
        self.agreed: Tensor
        self.measured: Tensor
        self.register_buffer("open", every.clone())
        self.register_buffer("worth", torch.zeros_like(self.probe))
        self.register_buffer("clock", torch.zeros(3, dtype=torch.long))
        """Steps in this epoch, steps an epoch has, epochs done."""
        self.register_buffer("size", torch.tensor(0 if budget is None else budget))
        """The budget, 0 until it is chosen."""
        self.register_buffer("halves", torch.zeros(2, len(longest), device=device))
        """Sums over this epoch's even and odd steps of the mean worth of each layer's tokens."""
        self.register_buffer("agreed", torch.zeros(2))
        """Sum of the correlations of halves, and how many."""
        self.measured = torch.zeros(0, 2, len(self.sizes), 0)
        """(T, 2, S, N): T times, losses and hits of each of S sizes on each of N validation images."""

    def get_extra_state(self) -> Tensor:
        """What was measured, for a checkpoint: its shape is the data's."""
        return self.measured

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from what was measured."""
        self.measured = state

    @property
    def budget(self) -> int:
        """Number of tokens to be left, 0 where that is not decided yet."""
        return int(self.size)

    @property
    def agreement(self) -> float | None:
        """Mean correlation of halves of the images about the layers; ``None`` in the first epoch."""
        total, count = self.agreed.tolist()
        return total / count if count else None

    @property
    def decides(self) -> bool:
        """Whether tokens are placed by worth; evenly otherwise."""
        return not self.free or self.agreement is None or self.agreement >= AGREEMENT

    def log_gates(self, layer: int, count: int) -> Tensor:
        """(count,) of one layer: 0 where open, -inf where closed."""
        return torch.where(self.open[layer, :count], self.probe[layer, :count], -torch.inf)

    @property
    def lengths(self) -> list[int]:
        """Open tokens of each layer, L numbers."""
        return self.open.sum(-1).tolist()

    @torch.no_grad()
    def after_step(self, epochs: int) -> None:
        """Read the gradient of the probe, then open and close what is due."""
        if self.probe.grad is None:
            return
        step, an_epoch, done = map(int, self.clock)
        self._read(self.probe.grad, step % 2)
        self.probe.grad = None
        self.clock[0] = step = step + 1
        if an_epoch:  # known when the first epoch has ended
            self._follow((done + step / an_epoch) / epochs, done * an_epoch + step)

    def _read(self, gradient: Tensor, half: int) -> None:
        """Remember a step's gradient (L, C); losses and their scales differ from step to step."""
        total = gradient.abs().sum()
        moves = total.isfinite()  # in float16 a step may move nothing; the device knows, and nobody waits
        count = self.open.sum().clamp(min=1)
        worth = gradient.abs() * count / total.clamp(min=1e-30)
        self.worth = torch.where(self.open & moves, self.worth.lerp(worth, 1 - MEMORY), self.worth)
        self.halves[half] += torch.where(moves, worth.sum(-1) / self.open.sum(-1).clamp(min=1), 0)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """The first epoch tells how many steps there are; the last leaves no token above the budget."""
        both = self.halves[:, (self.halves > 0).all(0)]  # (2, layers with tokens)
        if both.shape[1] > 2:
            correlation = torch.corrcoef(both)[0, 1]
            self.agreed[0] += float(correlation.nan_to_num())  # kept by the processor, as clock and size
            self.agreed[1] += 1
        self.halves.zero_()
        steps = int(self.clock[0])
        self.clock.copy_(torch.tensor([0, steps, epoch + 1]))
        self._follow((epoch + 1) / epochs, (epoch + 1) * steps)

    def finish(self) -> None:
        """Keep to the budget, whatever was learned."""
        self._follow(1.0, 0)

    def choose(self, size: int) -> None:
        """Decide the number of tokens: the most useful ones stay."""
        self.size.fill_(size)
        self.open = self.best(size, self.every)

    def _follow(self, share: float, step: int) -> None:
        """Open what the schedule wants at a share of training: cubic towards a budget, or sizes in turn."""
        if self.budget:
            left = min(max((END - share) / (END - BEGIN), 0.0), 1.0)
            wanted = round(self.budget + (self.full - self.budget) * left**3)
            if wanted != self.followed:
                self.open, self.followed = self.best(wanted, self.open), wanted
        elif share > BEGIN:
            smaller = self.sizes[:-1] or self.sizes
            turn, place = divmod(step, TURN)
            size = self.full if place else smaller[turn % len(smaller)]
            self.open = self.best(size, self.every)

    def best(self, size: int, among: Tensor) -> Tensor:
        """The ``size`` most useful tokens of some, (L, C) bool; where nothing is decided, spread evenly.

        Args:
            among: (L, C) bool.
        """
        places = torch.arange(among.shape[1], device=among.device)
        score = self.worth - 1e-30 * places  # of equal worth, the last places of every layer go first
        if not self.decides:
            rank = score.where(among, -torch.inf).argsort(-1, descending=True).argsort(-1)  # (L, C)
            score = score / (1 + self.worth.max()) - rank
        ids, owner, sizes = self.portions[among].unique(return_inverse=True, return_counts=True)
        mean = score.new_zeros(len(ids)).index_add(0, owner, score[among]) / sizes
        kept, left = among.clone(), int(among.sum())
        for index in mean.argsort().tolist():
            if left <= size:
                break
            kept &= self.portions != ids[index]
            left -= int(sizes[index])
        return kept
