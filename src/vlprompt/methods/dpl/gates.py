"""Which tokens a searching DPL has: all at first, and ever fewer as training shows which are of little use.

Within one layer prompt tokens are a set of keys and values. Token j has a gate g_j: log g_j is added to its
scores, so that 1 is the token and 0 is exactly no token. How much the loss depends on a token is, to first
order, |dL/d log g_j|, one number for every token of both branches from the backward pass that training does
anyway. It is noisy, so it is averaged over steps; and it says little about tokens that stand in for each
other, so they go a few at a time, with training between, as ranks do in AdaLoRA (arXiv 2303.10512). The sign
is left out: a batch of a few images that would do without a token says little (docs/methods.md).

Shapes: L layers of both branches, text first; C longest context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEMORY = 0.95
"""Of the running mean of worth, a step."""
BEGIN, END = 0.1, 0.6
"""Shares of training between which tokens go."""


class Gates(nn.Module):
    """The gates, and what is known of each token's worth.

    Args:
        longest: (L,) longest context of each layer.
        budget: number of tokens to be left at the most.
        portions: (L, C) whole numbers; tokens of one number open and close together. By default each token
            is a portion: this is what makes another search space.
    """

    def __init__(self, longest: Tensor, budget: int, portions: Tensor | None = None):
        super().__init__()
        width = int(longest.max()) if len(longest) else 0
        every = torch.arange(width, device=longest.device) < longest[:, None]  # (L, C)
        self.budget, self.full = budget, int(every.sum())
        self.probe = nn.Parameter(torch.zeros(every.shape, device=longest.device))
        """Log of the gates of open tokens: never moved, its gradient is what is read."""
        each = torch.arange(every.numel(), device=longest.device).view(every.shape)
        self.portions = each if portions is None else portions.to(longest.device)
        self.open: Tensor
        self.worth: Tensor
        self.clock: Tensor
        self.register_buffer("open", every)
        self.register_buffer("worth", torch.zeros_like(self.probe))
        self.register_buffer("clock", torch.zeros(3, dtype=torch.long))
        """Steps in this epoch, steps an epoch has, epochs done."""

    def log_gates(self, layer: int, count: int) -> Tensor:
        """(count,) of one layer: 0 where open, -inf where closed."""
        return torch.where(self.open[layer, :count], self.probe[layer, :count], -torch.inf)

    @property
    def lengths(self) -> list[int]:
        """Open tokens of each layer, L numbers."""
        return self.open.sum(-1).tolist()

    @torch.no_grad()
    def after_step(self, epochs: int) -> None:
        """Read the gradient of the probe, then close what is due."""
        if self.probe.grad is None:
            return
        worth = self.probe.grad.abs()  # (L, C)
        worth = worth / worth.sum().clamp(min=1e-30)  # losses and their scales differ from step to step
        self.worth.lerp_(worth, 1 - MEMORY)
        self.probe.grad = None
        self.clock[0] += 1
        step, an_epoch, done = self.clock.tolist()
        if an_epoch:  # known when the first epoch has ended
            self._close((done + step / an_epoch) / epochs)

    def finish(self) -> None:
        """Keep to the budget, whatever was learned."""
        self._close(1.0)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """The first epoch tells how many steps there are; the last leaves no token above the budget."""
        self.clock.copy_(torch.tensor([0, int(self.clock[0]), epoch + 1]))
        self._close((epoch + 1) / epochs)

    def _close(self, share: float) -> None:
        """Close the least useful portions, as many as are due at a share of training: a cubic schedule."""
        left = min(max((END - share) / (END - BEGIN), 0.0), 1.0)
        wanted = round(self.budget + (self.full - self.budget) * left**3)
        places = torch.arange(self.open.shape[1], device=self.worth.device)
        even = self.worth - 1e-30 * places  # of equal worth, the last places of every layer go first
        portions = self.portions[self.open]  # (open tokens,)
        ids, owner, sizes = portions.unique(return_inverse=True, return_counts=True)
        score = torch.zeros(len(ids), device=even.device).index_add(0, owner, even[self.open]) / sizes
        for index in score.argsort().tolist():
            if int(self.open.sum()) <= wanted:
                return
            self.open &= self.portions != ids[index]
