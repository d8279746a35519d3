"""What the search gains at one number of tokens and one number of steps, measured on test images.

    python benchmarks/search_test.py --backbones toy --tasks digits,shapes --seeds 1,2,3 --share 1/3

A seed is a few-shot draw, a start of the prompts and an order of images. On each, all at once (:mod:`fleet`):

* uniform: as many tokens, spread evenly, trained the ordinary way;
* searched: what DPL does, the search within the same steps, its prompts kept;
* its lengths, fresh: the place of tokens alone, trained the ordinary way from fresh prompts;
* kept, even: the search's procedure with tokens closed evenly, so the kept prompts alone;
* random: placements drawn at random, trained the ordinary way;
* longest: the longest context everywhere.

Records are kept; what is there is not trained again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from fleet import BATCH, LONGEST, Fleet, Problem, Recipe, Record, command, open_gates
from torch import Tensor

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.engine.encoder import Encoder
from vlprompt.methods.dpl.gates import Gates
from vlprompt.methods.lengths import Lengths, random_lengths, uniform_lengths

SHOTS, MEASURED, DRAWS = 16, 600, 3
"""Training images a class, test images at most, random placements a seed."""


class EvenGates(Gates):
    """Gates that never place."""

    @property
    def decides(self) -> bool:
        """Tokens go evenly."""
        return False


class Searching(Fleet):
    """A fleet some of whose members close tokens while they train, as DPL does.

    Args:
        searches: by number of the member.
    """

    def __init__(
        self,
        problem: Problem,
        gates: Tensor,
        searches: dict[int, Gates],
        seeds: Sequence[int],
        recipe: Recipe,
    ):
        super().__init__(problem, gates, seeds, recipe)
        self.searches = searches
        self.an_epoch = max(len(problem.train_labels) // BATCH, 1)
        self.done = 0

    @property
    def log_gates(self) -> Tensor:
        """(R, L, C), with the probes of those that search."""
        fixed = torch.where(self.gates > 0, 0.0, -torch.inf)
        rows = [
            torch.where(self.searches[r].open, self.searches[r].probe, -torch.inf)
            if r in self.searches
            else row
            for r, row in enumerate(fixed)
        ]
        return torch.stack(rows)

    def step(self, positions: Tensor) -> None:
        """One update, then the gates'."""
        super().step(positions)
        self.done += 1
        epoch, place = divmod(self.done, self.an_epoch)
        epochs = self.recipe.steps // self.an_epoch
        for gates in self.searches.values():
            gates.after_step(epochs)
            if not place:
                gates.after_epoch(epoch - 1, epochs)


def trial(encoder: Encoder, task: str, share: Fraction, seed: int, recipe: Recipe) -> list[Record]:
    """All ways on one draw of a task."""
    problem = Problem(encoder, drawn(task, seed))
    text, vision = problem.layers
    longest = Lengths((LONGEST,) * text, (LONGEST,) * vision)
    total, draw = round(share * longest.total), random.Random(seed)
    every = torch.full((text + vision,), LONGEST)
    fixed = {"uniform": uniform_lengths(longest, total), "longest": longest}
    fixed |= {f"random {i}": random_lengths(draw, longest, total) for i in range(DRAWS)}
    searched = {"searched": Gates(every, total), "kept, even": EvenGates(every, total)}
    names = [*fixed, *searched]
    gates = open_gates([*fixed.values(), *(longest for _ in searched)])
    fleet = Searching(
        problem, gates, dict(enumerate(searched.values(), len(fixed))), [seed] * len(gates), recipe
    )
    fleet.train()
    rows = list(zip(names, *fleet.evaluate(), strict=True))
    found = searched["searched"].lengths
    again = Lengths(tuple(found[:text]), tuple(found[text:]))
    fresh = Fleet(problem, open_gates([again]), [seed], recipe)
    fresh.train()
    rows.append(("its lengths, fresh", *(values[0] for values in fresh.evaluate())))
    about = {"total": total, "seed": seed, "found": found, "agreement": searched["searched"].agreement}
    return [{"name": n, "accuracy": float(a), "loss": float(x)} | about for n, a, x in rows]


def drawn(task: str, seed: int) -> Dataset:
    """A few-shot draw with a sample of the test images."""
    from dataclasses import replace

    dataset = data.few_shot(data.load(f"toy:{task}"), SHOTS, seed)
    test = random.Random(0).sample(dataset.test, min(MEASURED, len(dataset.test)))
    return replace(dataset, test=test)


WAYS = ("uniform", "searched", "its lengths, fresh", "kept, even", "random", "longest")


def table(records: list[Record]) -> list[list[str]]:
    """A row a task and the mean: mean and deviation over seeds; below, differences to uniform."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    seeds = sorted({r["seed"] for r in records})

    def values(way: str, task: str) -> np.ndarray:
        """Accuracy of each seed."""
        own = [[r["accuracy"] for r in records if (r["task"], r["seed"]) == (task, s)
                and r["name"].startswith(way)] for s in seeds]  # fmt: skip
        return np.array([np.mean(each) for each in own])

    rows = [["task", *WAYS]]
    for task in tasks:
        cells = [values(way, task) for way in WAYS]
        rows.append([task, *(f"{c.mean():.1f} ± {c.std(ddof=1) if len(c) > 1 else 0:.1f}" for c in cells)])
    mean = {way: np.array([values(way, task).mean() for task in tasks]) for way in WAYS}
    rows.append(["mean", *(f"{mean[way].mean():.1f}" for way in WAYS)])
    gains = {way: np.concatenate([values(way, t) - values("uniform", t) for t in tasks]) for way in WAYS}
    error = {way: 1.96 * g.std(ddof=1) / len(g) ** 0.5 for way, g in gains.items()}
    rows.append(["minus uniform", *(f"{gains[way].mean():+.1f} ± {error[way]:.1f}" for way in WAYS)])
    return rows


if __name__ == "__main__":
    command(__doc__, "search_test.jsonl", "1,2,3", trial, table)
