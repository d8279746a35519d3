"""How many tokens: accuracy and loss on validation images for a few sizes of one search.

All sizes share the prompts of the search and were trained in turn, so the curve compares sizes that are
equally far; it says how much a size costs, not what a training of its own would reach. Beside the tokens
that the search keeps, as many spread evenly and drawn at random are measured with the same prompts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.methods.base import Batch, Method
from vlprompt.methods.dpl.gates import Gates
from vlprompt.methods.lengths import Lengths, random_lengths, uniform_lengths

START, MIDDLE = 0.3, 0.6
"""Shares of training between which sizes are measured, after every epoch; then one is chosen."""
DRAWS = 3
"""Random placements of each size."""
Validation = Callable[[], Iterator[Batch]]
Point = dict[str, Any]
"""One size: its tokens, the lengths (text, vision), losses and accuracies."""


@torch.no_grad()
def measure(method: Method, gates: Gates, validation: Validation) -> Tensor:
    """Losses (S, N) of N images with each of S sizes; the gates add up their means and the accuracies."""
    before = gates.open
    each = [_evaluate(method, gates, gates.best(size, gates.every), validation) for size in gates.sizes]
    gates.open = before
    losses = torch.stack([loss for loss, _ in each])  # (S, N)
    accuracies = torch.tensor([accuracy for _, accuracy in each])
    gates.measured[0] += losses.mean(1).to(gates.measured)
    gates.measured[1] += accuracies.to(gates.measured)
    gates.measured[2] += 1
    return losses


@torch.no_grad()
def curve(method: Method, gates: Gates, text: int, validation: Validation) -> list[Point]:
    """A point a size: means of what was measured; even and random placements as they do now.

    Args:
        text: number of layers of the text branch.
        validation: gives all validation images, batch after batch.
    """
    before, draw = gates.open, random.Random(0)
    longest = Lengths(*_branches(gates.every.sum(-1).tolist(), text))
    losses, accuracies, times = gates.measured.tolist()
    points = []
    for index, size in enumerate(gates.sizes):
        found = gates.best(size, gates.every)
        even = [uniform_lengths(longest, size)]
        drawn = [random_lengths(draw, longest, size) for _ in range(DRAWS)]
        point: Point = {"tokens": int(found.sum())}
        point |= {"loss": losses[index] / times[index], "accuracy": accuracies[index] / times[index]}
        point["text"], point["vision"] = _branches(found.sum(-1).tolist(), text)
        for name, placements in {"even": even, "random": drawn if size < gates.full else even}.items():
            masks = [_within(gates, lengths) for lengths in placements]
            point[name] = [_evaluate(method, gates, mask, validation)[1] for mask in masks]
        points.append(point)
    gates.open = before
    return points


def choose(gates: Gates, losses: Tensor) -> int:
    """The index of the smallest size that is as good as the best, within one standard error.

    Args:
        losses: (S, N) of N images, the last that were measured; their means are put to those of all times.
    """
    means = gates.measured[0] / gates.measured[2]
    return within_one_error(losses.cpu() - losses.cpu().mean(1, keepdim=True) + means.cpu()[:, None])


def within_one_error(losses: Tensor) -> int:
    """The first of S sizes whose loss is at most one standard error above the best one's.

    Args:
        losses: (S, N) of N images. Differences are taken image by image, which leaves out how hard each is.
    """
    differences = losses - losses[losses.mean(1).argmin()]  # (S, N)
    errors = differences.std(1) / differences.shape[1] ** 0.5
    return int((differences.mean(1) <= errors.nan_to_num()).nonzero()[0])


def _evaluate(method: Method, gates: Gates, tokens: Tensor, validation: Validation) -> tuple[Tensor, float]:
    """Losses (N,) and accuracy in percent with some tokens (L, C) open."""
    gates.open = tokens
    predict, losses, hits = method.predictor(), [], []
    for batch in validation():
        logits = predict(batch.images)  # (B, K)
        losses.append(F.cross_entropy(logits.float(), batch.labels, reduction="none"))
        hits.append(logits.argmax(-1) == batch.labels)
    return torch.cat(losses), 100 * float(torch.cat(hits).float().mean())


def _within(gates: Gates, lengths: Lengths) -> Tensor:
    """The most useful tokens of each layer, as many as a placement has: (L, C) bool."""
    counts = torch.tensor([*lengths.text, *lengths.vision], device=gates.every.device)
    worth = gates.worth.where(gates.every, -torch.inf)
    rank = worth.argsort(stable=True, dim=-1, descending=True).argsort(-1)  # (L, C)
    return rank < counts[:, None]


def _branches(values: list[int], text: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(values[:text]), tuple(values[text:])
