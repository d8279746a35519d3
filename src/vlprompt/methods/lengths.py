"""Context lengths per layer and branch: what DPL's search finds and what deep prompts are made by."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlprompt.errors import UserError
from vlprompt.files import MARK, write_text
from vlprompt.reading import parse_json, read_text
from vlprompt.typed import Length, Share, checked


@dataclass(frozen=True)
class Lengths:
    """Context length of every layer.

    Args:
        text, vision: one length a layer; 0 is no prompt.
        text_confidence, vision_confidence: softmax(alpha) of each chosen length; empty where the
            lengths were set by hand.
    """

    text: tuple[Length, ...]
    vision: tuple[Length, ...]
    text_confidence: tuple[Share, ...] = ()
    vision_confidence: tuple[Share, ...] = ()

    @property
    def total(self) -> int:
        """Number of context tokens in all layers of both branches."""
        return sum(self.text) + sum(self.vision)

    def save(self, path: str | Path) -> None:
        """Write JSON; the file appears whole or not at all.

        Raises:
            UserError: the place cannot be written, or is full.
        """
        write_text(Path(path), json.dumps({"made_by": MARK} | asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: str | Path) -> Lengths:
        """Read JSON written by :meth:`save` or by hand.

        Raises:
            UserError: no such file, or not two lists of whole numbers.
        """
        try:
            content = parse_json(read_text(Path(path)))
            if isinstance(content, dict):
                content.pop("made_by", None)
            return checked(content, Lengths, "lengths")
        except (OSError, ValueError, UserError) as error:
            raise UserError(
                f"lengths file '{path}' cannot be read ({error}): "
                'write {"text": [4, 4, ...], "vision": [4, 4, ...]}, one whole number a layer'
            ) from error


def check_lengths(lengths: Sequence[int], layers: int, branch: str) -> None:
    """Raise a :class:`UserError` unless there is one length for every layer of a branch."""
    if len(lengths) != layers:
        raise UserError(
            f"{len(lengths)} {branch} lengths for a backbone with {layers} {branch} layers: "
            "give one length a layer"
        )


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
