"""Other ways to place tokens beside the search by gates: equal tokens, equal training steps, held-out images.

    python benchmarks/search_ways.py --backbones toy --seeds 4,5

All are trained at once (:mod:`fleet`) on a few-shot draw and measured on training images that it leaves; test
images are never loaded. Each but the first keeps its prompts; behind the comma, fresh prompts are trained
with the lengths that it found:

* even: no search;
* gates: DPL's search, by the running mean of |dL / d log g|;
* gates, evenly: its procedure with tokens closed evenly;
* concrete: gates of a hard concrete distribution (arXiv 1712.01312) whose expected number follows the same
  schedule, the likeliest are kept;
* supernet: another random placement of the budget's size every step; then the one of the least loss on
  validation images, by evolution (arXiv 2206.04673);
* leave out: the tokens whose removal raises the loss on training images least, measured (arXiv 2108.04392);
* relocate: even at first; the least useful token moves to the layer whose tokens are worth most (arXiv
  2503.06901);
* additive: a dozen random placements trained for a quarter of the steps, least squares on the roots of each
  layer's tokens, the best placement of that; fresh prompts only. Its steps come on top.

Records are kept; what is there is not trained again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from fleet import LONGEST, Fleet, Problem, Recipe, Record, command, open_gates
from search_study import interval, wanted_lengths
from search_test import EvenGates, Searching
from torch import Tensor, nn
from torch.nn import functional as F
from tune import sample

from vlprompt.dataset import Dataset
from vlprompt.engine.encoder import Encoder
from vlprompt.methods.dpl.gates import BEGIN, END, Gates
from vlprompt.methods.lengths import Lengths, random_lengths, uniform_lengths

MEASURED = 320
"""Held-out images at most."""
ROUNDS, PROBED = 8, 64
"""Of leaving out: how often, and on how many training images."""
MOVES = 20
"""Tokens that are relocated, for every sixteen."""
FIRST, GENERATIONS, CHILDREN = 24, 3, 12
"""Of the evolution: random placements, then rounds of mutated ones."""
TRIED = 12
"""Placements of the additive model."""
Losses = Callable[[Sequence[Lengths]], Tensor]
"""Mean loss of each of some placements, as the prompts are now."""


class Way(Gates):
    """A search with a schedule of its own.

    Args:
        layers: of the text and of the vision branch.
        losses: on the images that this search may look at.
    """

    def __init__(self, layers: tuple[int, int], total: int, losses: Losses, draw: random.Random):
        super().__init__(torch.full((sum(layers),), LONGEST), total)
        self.text, self.losses, self.draw, self.total = layers[0], losses, draw, total
        self.longest = Lengths(*((LONGEST,) * n for n in layers))
        self.start()

    def start(self) -> None:
        """Before the first step."""

    def take(self, lengths: Lengths) -> None:
        """Open the first tokens of each layer."""
        self.open = open_gates([lengths])[0] > 0

    def row(self) -> Tensor:
        """Logs of the gates (L, C)."""
        return torch.where(self.open, self.probe, -torch.inf)

    def split(self, counts: Sequence[int]) -> Lengths:
        """Counts of all layers as lengths."""
        return Lengths(tuple(counts[: self.text]), tuple(counts[self.text :]))


class Concrete(Way):
    """Sampled gates; an offset holds their expected number at what the schedule wants."""

    HEAT, LOW, HIGH, RATE = 2 / 3, -0.1, 1.1, 0.1

    def start(self) -> None:
        """All tokens are as likely."""
        self.level = nn.Parameter(0.01 * torch.randn_like(self.probe))
        self.chances = torch.optim.Adam([self.level], self.RATE)
        self.offset, self.sampling = 4.0, True

    def row(self) -> Tensor:
        """A sample while it searches."""
        if not self.sampling:
            return super().row()
        u = torch.rand_like(self.level).clamp(1e-4, 1 - 1e-4)
        s = ((u.log() - (-u).log1p() + self.level + self.offset) / self.HEAT).sigmoid()
        return (s * (self.HIGH - self.LOW) + self.LOW).clamp(1e-4, 1).log() + self.probe

    def _read(self, gradient: Tensor, half: int) -> None:
        self.chances.step()
        self.chances.zero_grad()

    def expected(self, offset: float) -> float:
        """Number of gates above zero."""
        edge = self.HEAT * float(np.log(-self.LOW / self.HIGH))
        return float((self.level + offset - edge).sigmoid().sum())

    @torch.no_grad()
    def _follow(self, share: float, step: int) -> None:
        left = min(max((END - share) / (END - BEGIN), 0.0), 1.0)
        if not left and self.sampling:
            self.worth, self.sampling = self.level.detach() - float(self.level.min()), False
            self.open = self.best(self.total, self.every)
        wanted, low, high = self.total + (0.98 * self.full - self.total) * left**3, -20.0, 20.0
        for _ in range(30):
            self.offset = (low + high) / 2
            low, high = (low, self.offset) if self.expected(self.offset) > wanted else (self.offset, high)

    @property
    def decides(self) -> bool:
        """Always by what was learned."""
        return True


class Supernet(Way):
    """Placements of the budget's size in turn, then evolution on validation images."""

    def start(self) -> None:
        """Nothing is chosen."""
        self.chosen: Lengths | None = None

    def _follow(self, share: float, step: int) -> None:
        if share < END:
            self.take(random_lengths(self.draw, self.longest, self.total))
        elif self.chosen is None:
            self.chosen = self.evolve()
            self.take(self.chosen)

    def evolve(self) -> Lengths:
        """The best of random placements and of what moving tokens makes of the best ones."""
        even = uniform_lengths(self.longest, self.total)
        pool = [even, *(random_lengths(self.draw, self.longest, self.total) for _ in range(FIRST))]
        scores = self.losses(pool).tolist()
        for _ in range(GENERATIONS):
            best = [pool[i] for i in np.argsort(scores)[:4]]
            children = [self.moved(self.draw.choice(best)) for _ in range(CHILDREN)]
            pool, scores = pool + children, scores + self.losses(children).tolist()
        return pool[int(np.argmin(scores))]

    def moved(self, lengths: Lengths) -> Lengths:
        """A tenth of the tokens, two at least, in other layers."""
        counts = [*lengths.text, *lengths.vision]
        for _ in range(max(2, self.total // 10)):
            counts[self.draw.choice([i for i, n in enumerate(counts) if n])] -= 1
            counts[self.draw.choice([i for i, n in enumerate(counts) if n < LONGEST])] += 1
        return self.split(counts)


class LeaveOut(Way):
    """Round after round, the tokens that the loss misses least go."""

    def start(self) -> None:
        """No round was made."""
        self.rounds = 0

    def _follow(self, share: float, step: int) -> None:
        if self.rounds >= ROUNDS or share < BEGIN + (END - BEGIN) * self.rounds / ROUNDS:
            return
        self.rounds += 1
        wanted = round(self.full + (self.total - self.full) * self.rounds / ROUNDS)
        while (missing := sum(self.lengths) - wanted) > 0:
            counts = self.lengths
            layers = [i for i, n in enumerate(counts) if n]
            fewer = [self.split([n - (i == layer) for i, n in enumerate(counts)]) for layer in layers]
            order = np.argsort(self.losses(fewer).tolist())[:missing]
            gone = {layers[i] for i in order}
            self.take(self.split([n - (i in gone) for i, n in enumerate(counts)]))


class Relocate(Way):
    """Idle tokens move to where tokens are of use."""

    def start(self) -> None:
        """Even lengths."""
        self.take(uniform_lengths(self.longest, self.total))
        self.moves = 0

    def _follow(self, share: float, step: int) -> None:
        moves = MOVES * self.total // 16
        if self.moves >= moves or share < BEGIN + (END - BEGIN) * self.moves / moves:
            return
        self.moves += 1
        idle = self.worth.where(self.open, torch.inf).argmin()
        self.open.view(-1)[idle] = False
        count = self.open.sum(-1)
        mean = (self.worth * self.open).sum(-1) / count.clamp(min=1)
        layer = int(mean.where(count < LONGEST, -1.0).argmax())
        place = int((~self.open[layer]).nonzero()[0])
        self.open[layer, place] = True
        self.worth[layer, place] = mean[layer]  # until it is known


class Ways(Searching):
    """A fleet of searches; each may ask for losses of placements with its own prompts as they are."""

    @property
    def log_gates(self) -> Tensor:
        """(R, L, C)."""
        fixed = torch.where(self.gates > 0, 0.0, -torch.inf)
        rows = []
        for r, row in enumerate(fixed):
            search = self.searches.get(r)
            if isinstance(search, Way):
                row = search.row()
            elif search:
                row = torch.where(search.open, search.probe, -torch.inf)
            rows.append(row)
        return torch.stack(rows)

    @torch.no_grad()
    def losses(self, row: int, images: Tensor, labels: Tensor, placements: Sequence[Lengths]) -> Tensor:
        """Mean cross-entropy (P,) of some placements with one member's prompts."""
        found = []
        for at in range(0, len(placements), 16):
            some = placements[at : at + 16]
            asked = Fleet.__new__(Fleet)
            asked.problem, asked.recipe, asked.seeds = self.problem, self.recipe, [0] * len(some)
            asked.gates = open_gates(some)
            asked.text, asked.vision = (
                x[row].expand(len(some), *x.shape[1:]) for x in (self.text, self.vision)
            )
            total = torch.zeros(len(some))
            for part in torch.arange(len(labels)).split(8):
                logits = asked.logits(images[part].expand(len(some), -1, -1, -1, -1))  # (P, b, K)
                wanted = labels[part].expand(len(some), -1)
                total += F.cross_entropy(logits.mT, wanted, reduction="none").sum(1)
            found.append(total / len(labels))
        return torch.cat(found)


KINDS: dict[str, type[Way]] = {
    "concrete": Concrete,
    "supernet": Supernet,
    "leave out": LeaveOut,
    "relocate": Relocate,
}


def trial(encoder: Encoder, task: str, share: Fraction, seed: int, recipe: Recipe) -> list[Record]:
    """All ways on one draw of a task."""
    problem = Problem(encoder, held_out(task, seed))
    layers, draw = problem.layers, random.Random(seed)
    longest = Lengths(*((LONGEST,) * n for n in layers))
    total = round(share * longest.total)
    every = torch.full((sum(layers),), LONGEST)
    validation = problem._read(problem.dataset.val)
    probed = torch.randperm(len(problem.train_labels), generator=torch.Generator().manual_seed(seed))[:PROBED]
    training = problem.train[probed], problem.train_labels[probed]
    searches: dict[str, Gates] = {"gates": Gates(every, total), "gates, evenly": EvenGates(every, total)}
    for index, (name, kind) in enumerate(KINDS.items(), 1 + len(searches)):
        images, labels = validation if name == "supernet" else training

        def losses(
            placed: Sequence[Lengths], r: int = index, x: Tensor = images, y: Tensor = labels
        ) -> Tensor:
            return fleet.losses(r, x, y, placed)

        searches[name] = kind(layers, total, losses, draw)
    gates = open_gates([uniform_lengths(longest, total), *(longest for _ in searches)])
    fleet = Ways(problem, gates, dict(enumerate(searches.values(), 1)), [seed] * len(gates), recipe)
    fleet.train()
    rows = list(zip(("even", *searches), *fleet.evaluate(), strict=True))
    found = {n: g.lengths for n, g in searches.items() if n != "gates, evenly"}
    found["additive"] = additive(problem, longest, total, validation, seed, draw, recipe)
    again = [Lengths(tuple(c[: layers[0]]), tuple(c[layers[0] :])) for c in found.values()]
    fresh = Fleet(problem, open_gates(again), [seed] * len(again), recipe)
    fresh.train()
    rows += zip((f"{n}, fresh" for n in found), *fresh.evaluate(), strict=True)
    about = {"total": total, "found": found}
    return [{"name": n, "accuracy": float(a), "loss": float(x)} | about for n, a, x in rows]


def additive(
    problem: Problem,
    longest: Lengths,
    total: int,
    validation: tuple[Tensor, Tensor],
    seed: int,
    draw: random.Random,
    recipe: Recipe,
) -> list[int]:
    """What least squares over short trainings, measured on validation images, wants."""
    placed = [random_lengths(draw, longest, total) for _ in range(TRIED)]
    fleet = Fleet(problem, open_gates(placed), [seed] * TRIED, replace(recipe, steps=recipe.steps // 4))
    fleet.train()
    test = problem.test, problem.test_labels
    problem.test, problem.test_labels = validation
    losses = fleet.evaluate()[1].numpy()
    problem.test, problem.test_labels = test
    roots = np.sqrt([[*p.text, *p.vision] for p in placed])
    x, y = roots - roots.mean(0), losses.mean() - losses
    wants = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    best = wanted_lengths(wants, longest, total)
    return [*best.text, *best.vision]


def held_out(task: str, seed: int) -> Dataset:
    """A few-shot draw; its test images are a sample of those that it leaves."""
    dataset = sample(task, seed)
    return replace(dataset, test=random.Random(0).sample(dataset.test, min(MEASURED, len(dataset.test))))


def table(records: Sequence[Record]) -> list[list[str]]:
    """A row a way: accuracy by task, the mean, and the difference to even with its interval."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    by = {(r["name"], r["task"], r["seed"]): r["accuracy"] for r in records}
    draws = sorted({(r["task"], r["seed"]) for r in records})
    rows = [["", *tasks, "mean", "minus even"]]
    for name in dict.fromkeys(r["name"] for r in records):
        cells = [np.mean([by[name, t, s] for t, s in draws if t == task]) for task in tasks]
        apart = [by[name, *d] - by["even", *d] for d in draws]
        rows.append([name, *(f"{c:.1f}" for c in cells), f"{np.mean(cells):.1f}", interval(apart)])
    return rows


if __name__ == "__main__":
    command(__doc__, "search_ways.jsonl", "4,5", trial, table)
