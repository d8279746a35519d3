"""From architecture weights to lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.errors import UserError
from vlprompt.methods.lengths import Lengths, check_lengths


def from_alphas(text: Tensor, vision: Tensor, budget: int = 0, share: float = 1.0) -> Lengths:
    """The argmax of each layer's alphas (layers, C+1); the confidence is their softmax.

    Args:
        budget: with a number above 0, the most likely lengths with at most so many tokens in all.
        share: below 1, the longest context with at least this share of the largest weight.
    """
    text_p, vision_p = (a.detach().double().softmax(-1).cpu() for a in (text, vision))
    text_n, vision_n = (longest_within(p, share) for p in (text_p, vision_p))
    if budget and sum(text_n) + sum(vision_n) > budget:
        longest = max(text_p.shape[1], vision_p.shape[1])
        padded = [F.pad(p, (0, longest - p.shape[1])) for p in (text_p, vision_p)]
        both = within_budget(torch.cat(padded).log(), budget)
        text_n, vision_n = both[: len(text_n)], both[len(text_n) :]
    return Lengths(
        tuple(text_n),
        tuple(vision_n),
        tuple(text_p[range(len(text_n)), text_n].tolist()),
        tuple(vision_p[range(len(vision_n)), vision_n].tolist()),
    )


def first_alphas(layers: int, longest: int, start: Sequence[int], device: torch.device) -> torch.nn.Parameter:
    """Architecture weights (layers, longest + 1), drawn from 1e-3 * N(0, 1) on the CPU.

    Args:
        start: lengths that another search found; each starts with half of its layer's weight.

    Raises:
        UserError: not one length a layer, or one that is too long.
    """
    alphas = 1e-3 * torch.randn(layers, longest + 1)
    if start:
        check_lengths(start, layers, "starting")
        if max(start) > longest:
            raise UserError(
                f"a starting length of {max(start)} with candidates up to {longest}: raise the limit"
            )
        alphas[torch.arange(layers), torch.tensor(start)] += math.log(max(longest, 1))
    return torch.nn.Parameter(alphas.to(device))


def longest_within(weights: Tensor, share: float) -> list[int]:
    """The longest context of each layer whose weight is at least ``share`` of the layer's largest.

    Args:
        weights: (layers, C+1).
    """
    enough = weights >= share * weights.amax(-1, keepdim=True)  # (layers, C+1)
    longest = weights.shape[1] - 1
    return (longest - enough.flip(-1).int().argmax(-1)).tolist()


def within_budget(log_weights: Tensor, budget: int) -> list[int]:
    """One length a layer with the largest sum of log weights and at most ``budget`` tokens in all.

    Args:
        log_weights: (layers, C+1).
    """
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # tokens used -> score and lengths
    for row in log_weights.tolist():
        reached: dict[int, tuple[float, list[int]]] = {}
        for used, (score, lengths) in best.items():
            for length, value in enumerate(row[: budget - used + 1]):
                total = used + length
                if total not in reached or score + value > reached[total][0]:
                    reached[total] = (score + value, [*lengths, length])
        best = reached
    return max(best.values(), key=lambda found: found[0])[1]
