"""How many tokens: accuracy and loss on validation images for a few sizes of one search.

All sizes share the prompts of the search, so the curve compares sizes that are equally far; it says how much
a size costs, not what a training of its own would reach. Beside the tokens that the search keeps, as many
spread evenly and drawn at random are measured with the same prompts.
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
def measure(method: Method, gates: Gates, validation: Validation) -> None:
    """Losses and hits of all validation images with each size, added to what the gates have measured."""
    before = gates.open
    each = [_evaluate(method, gates, gates.best(size, gates.every), validation) for size in gates.sizes]
    gates.open = before
    now = torch.stack(each, 1).cpu()[None]  # (1, 2, S, N)
    gates.measured = torch.cat([gates.measured, now]) if len(gates.measured) else now


@torch.no_grad()
def curve(method: Method, gates: Gates, text: int, validation: Validation) -> list[Point]:
    """A point a size: the mean of its losses so far; accuracies of it, of even and random placements now.

    Args:
        text: number of layers of the text branch.
        validation: gives all validation images, batch after batch.
    """
    before, draw = gates.open, random.Random(0)
    longest = Lengths(*_branches(gates.every.sum(-1).tolist(), text))
    losses, hits = gates.measured[:, 0].mean((0, 2)).tolist(), gates.measured[-1, 1].mean(1).tolist()
    points = []
    for index, size in enumerate(gates.sizes):
        found = gates.best(size, gates.every)
        even = [uniform_lengths(longest, size)]
        drawn = [random_lengths(draw, longest, size) for _ in range(DRAWS)]
        point: Point = {"tokens": int(found.sum())}
        point |= {"loss": losses[index], "accuracy": 100 * hits[index]}
        point["text"], point["vision"] = _branches(found.sum(-1).tolist(), text)
        for name, placements in {"even": even, "random": drawn if size < gates.full else even}.items():
            masks = [_within(gates, lengths) for lengths in placements]
            right = [_evaluate(method, gates, mask, validation)[1] for mask in masks]  # (N,) each
            point[name] = [100 * float(each.mean()) for each in right]
        points.append(point)
    gates.open = before
    return points


def choose(gates: Gates) -> int:
    """The index of the smallest size that is as good as the best, within one standard error.

    The losses are each image's mean over all times: what training does to an image from one time to the
    next is no error of the size's.
    """
    return within_one_error(gates.measured[:, 0].mean(0))


def within_one_error(losses: Tensor) -> int:
    """The first of S sizes whose loss is at most one standard error above the best one's.

    Args:
        losses: (S, N) of N images. Differences are taken image by image, which leaves out how hard each is.
    """
    differences = losses - losses[losses.mean(1).argmin()]  # (S, N)
    errors = differences.std(1) / differences.shape[1] ** 0.5
    return int((differences.mean(1) <= errors.nan_to_num()).nonzero()[0])


def _evaluate(method: Method, gates: Gates, tokens: Tensor, validation: Validation) -> Tensor:
    """Losses and hits (2, N) with some tokens (L, C) open."""
    gates.open = tokens
    predict, losses, hits = method.predictor(), [], []
    for batch in validation():
        logits = predict(batch.images)  # (B, K)
        losses.append(F.cross_entropy(logits.float(), batch.labels, reduction="none"))
        hits.append(logits.argmax(-1) == batch.labels)
    return torch.stack([torch.cat(losses), torch.cat(hits).float()])


def _within(gates: Gates, lengths: Lengths) -> Tensor:
    """The most useful tokens of each layer, as many as a placement has: (L, C) bool."""
    counts = torch.tensor([*lengths.text, *lengths.vision], device=gates.every.device)
    worth = gates.worth.where(gates.every, -torch.inf)
    rank = worth.argsort(stable=True, dim=-1, descending=True).argsort(-1)  # (L, C)
    return rank < counts[:, None]


def _branches(values: list[int], text: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(values[:text]), tuple(values[text:])
