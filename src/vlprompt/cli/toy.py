"""The command ``vlprompt toy``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from vlprompt.progress import console


def toy(action: Positional[Literal["pretrain"]], /, out: Path = Path("toy-backbone"), seed: int = 0) -> None:
    """Train the built-in backbone again, from nothing.

    Args:
        action: 'pretrain' renders the pictures and trains on them.
        out: folder for the backbone.
        seed: seed of everything.
    """
    from vlprompt.toy.pretrain import pretrain

    pretrain(out, seed=seed)
    console.print(f"backbone written to {out}")
