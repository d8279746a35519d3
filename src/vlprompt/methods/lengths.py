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
from vlprompt.typed import Length, Share, check_fields, checked


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

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def total(self) -> int:
        """Number of context tokens in all layers of both branches."""
        return sum(self.text) + sum(self.vision)

    def _repr_html_(self) -> str:
        """What a notebook shows: a heat map, a row a branch and a cell a layer."""
        most = max((*self.text, *self.vision, 1))
        rows = ""
        for branch, lengths in (("text", self.text), ("vision", self.vision)):
            shades = (f"background: rgba(15, 102, 177, {0.04 + 0.6 * n / most:.2f})" for n in lengths)
            cells = (f'<td style="{s}">{n}</td>' for s, n in zip(shades, lengths, strict=True))
            rows += f"<tr><th>{branch}</th>{''.join(cells)}</tr>" if lengths else ""
        words = f"Context length of each layer, {self.total} tokens"
        return f'<table><caption style="white-space: nowrap">{words}</caption>{rows}</table>'

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


def random_lengths(draw: random.Random, longest: Lengths, total: int) -> Lengths:
    """Lengths with ``total`` tokens in all: a control that a search is compared with.

    Args:
        longest: what each layer has room for.

    Raises:
        UserError: more tokens than there is room for.
    """
    room = _room(longest, total)
    lengths = [draw.randint(0, most) for most in room]
    while sum(lengths) != total:  # one layer at a time towards the wanted number
        step = 1 if sum(lengths) < total else -1
        layer = draw.choice([i for i, n in enumerate(lengths) if 0 <= n + step <= room[i]])
        lengths[layer] += step
    return _divided(lengths, longest)


def uniform_lengths(longest: Lengths, total: int) -> Lengths:
    """``total`` tokens spread evenly over all layers of both branches, the first ones getting what is over.

    Raises:
        UserError: more tokens than there is room for.
    """
    room = _room(longest, total)
    lengths = [0] * len(room)
    while sum(lengths) < total:
        open_layers = [i for i, most in enumerate(room) if lengths[i] < most]
        lengths[min(open_layers, key=lambda i: lengths[i])] += 1
    return _divided(lengths, longest)


def _room(longest: Lengths, total: int) -> list[int]:
    room = [*longest.text, *longest.vision]
    if not 0 <= total <= sum(room):
        raise UserError(f"{total} tokens do not fit {len(room)} layers with room for {sum(room)}: give fewer")
    return room


def _divided(lengths: Sequence[int], like: Lengths) -> Lengths:
    """Lengths of all layers, those of the text branch first."""
    return Lengths(tuple(lengths[: len(like.text)]), tuple(lengths[len(like.text) :]))


def averaged(found: Sequence[Lengths]) -> Lengths:
    """The mean length of each layer over several searches, rounded so that the mean number of tokens stays.

    The confidence of a layer is the share of searches that found this very length.
    """
    columns = list(zip(*([*one.text, *one.vision] for one in found), strict=True))
    means = [sum(column) / len(found) for column in columns]
    lengths = [int(mean) for mean in means]
    over = round(sum(means)) - sum(lengths)
    for layer in sorted(range(len(means)), key=lambda i: lengths[i] - means[i])[:over]:
        lengths[layer] += 1
    sure = [column.count(n) / len(found) for column, n in zip(columns, lengths, strict=True)]
    text = len(found[0].text)
    return Lengths(tuple(lengths[:text]), tuple(lengths[text:]), tuple(sure[:text]), tuple(sure[text:]))


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
