"""The command ``vlprompt words``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from vlprompt.cli.console import show_rows
from vlprompt.cli.loading import AS_TRAINED, Loading
from vlprompt.errors import UserError


def words(
    classifier: Positional[Path],
    *,
    top: int = 5,
    json: bool = False,
    loading: OmitArgPrefixes[Loading] = AS_TRAINED,
) -> None:
    """Show a learned text context in words: the nearest tokens of the vocabulary.

    Args:
        classifier: folder of a tuned classifier.
        top: number of tokens for each context token.
        json: print a JSON list.
    """
    from vlprompt.insight.words import nearest_words

    tuned = loading.load(classifier).method_
    tokens = nearest_words(tuned, max(top, 1))
    if not tokens:
        raise UserError(
            f"'{classifier}': method '{tuned.name}' learns no text context that has words: "
            "fit one that does, such as coop, maple or promptsrc"
        )
    if json:
        show_rows([asdict(token) for token in tokens], "json")
        return
    rows = [
        {
            "class": token.class_name or "all",
            "token": token.number,
            "nearest (distance)": ", ".join(f"{n.word} {n.distance:.2f}" for n in token.by_distance),
            "most similar (cosine)": ", ".join(f"{n.word} {n.cosine:.2f}" for n in token.by_cosine),
        }
        for token in tokens
    ]
    show_rows(rows, "table")
