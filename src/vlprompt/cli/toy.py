"""The command ``vlprompt toy``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from vlprompt.progress import console


def toy(
    action: Positional[Literal["pretrain"]],
    /,
    out: Path = Path("toy-backbone"),
    size: Literal["toy", "toy-deep"] = "toy",
    text: bool = False,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Train a built-in backbone again, from nothing.

    Args:
        action: 'pretrain' renders the pictures and trains on them.
        out: folder for the backbone.
        size: 'toy' has four layers a branch, 'toy-deep' twelve narrower ones.
        text: train the language model 'toy-text' on the words of Python's standard library.
        seed: seed of everything.
        force: replace the folder whoever made it.
    """
    if text:
        from vlprompt.toy.language import pretrain_text

        pretrain_text(out, seed, force=force)
    else:
        from vlprompt.toy.pretrain import pretrain

        pretrain(out, size, seed, force=force)
    console.print(f"backbone written to {out}")
