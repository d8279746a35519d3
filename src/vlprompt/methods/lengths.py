"""Context lengths per layer and branch: what DPL's search finds and what deep prompts are made by."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.errors import UserError
from vlprompt.files import write_text


@dataclass(frozen=True)
class Lengths:
    """Context length of every layer.

    Args:
        text, vision: one length a layer; 0 is no prompt.
        text_confidence, vision_confidence: softmax(alpha) of each chosen length; empty where the
            lengths were set by hand.
    """

    text: tuple[int, ...]
    vision: tuple[int, ...]
    text_confidence: tuple[float, ...] = ()
    vision_confidence: tuple[float, ...] = ()

    @staticmethod
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

    @property
    def total(self) -> int:
        """Number of context tokens in all layers of both branches."""
        return sum(self.text) + sum(self.vision)

    def save(self, path: Path) -> None:
        """Write JSON; the file appears whole or not at all.

        Raises:
            UserError: the place cannot be written, or is full.
        """
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> Lengths:
        """Read JSON written by :meth:`save` or by hand.

        Raises:
            UserError: no such file, or not two lists of whole numbers.
        """
        try:
            content = json.loads(path.read_text())
            lengths = Lengths(**{key: tuple(value) for key, value in content.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"lengths file '{path}' cannot be read ({error}): "
                'write {"text": [4, 4, ...], "vision": [4, 4, ...]}, one number a layer'
            ) from error
        if not all(isinstance(n, int) and n >= 0 for n in lengths.text + lengths.vision):
            raise UserError(f"lengths file '{path}': lengths are whole numbers from 0, one a layer")
        return lengths


def check_lengths(lengths: Sequence[int], layers: int, branch: str) -> None:
    """Raise a :class:`UserError` unless there is one length for every layer of a branch."""
    if len(lengths) != layers:
        raise UserError(
            f"{len(lengths)} {branch} lengths for a backbone with {layers} {branch} layers: "
            "give one length a layer"
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


def random_lengths(draw: random.Random, layers: tuple[int, int], longest: int, total: int) -> Lengths:
    """Lengths with ``total`` tokens in all: the control that a search is compared with.

    Args:
        layers: number of text and of vision layers.

    Raises:
        UserError: more tokens than there is room for.
    """
    if not 0 <= total <= sum(layers) * longest:
        raise UserError(
            f"{total} tokens do not fit {sum(layers)} layers of at most {longest}: lower the number"
        )
    lengths = [draw.randint(0, longest) for _ in range(sum(layers))]
    while sum(lengths) != total:  # one layer at a time towards the wanted number
        step = 1 if sum(lengths) < total else -1
        layer = draw.choice([i for i, n in enumerate(lengths) if 0 <= n + step <= longest])
        lengths[layer] += step
    return Lengths(tuple(lengths[: layers[0]]), tuple(lengths[layers[0] :]))


def agreed(found: Sequence[Lengths]) -> Lengths:
    """The most frequent length of each layer over several searches; its share is the confidence."""

    def vote(columns: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        votes = [Counter(column).most_common(1)[0] for column in zip(*columns, strict=True)]
        return tuple(n for n, _ in votes), tuple(count / len(found) for _, count in votes)

    (text, text_share), (vision, vision_share) = (
        vote([f.text for f in found]),
        vote([f.vision for f in found]),
    )
    return Lengths(text, vision, text_share, vision_share)


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
