"""The command ``vlprompt cache``."""

from __future__ import annotations

from typing import Literal

from tyro.conf import Positional

from vlprompt.cli.console import show_rows


def cache(
    action: Positional[Literal["show", "clear"]] = "show",
    kinds: Positional[tuple[Literal["decoded", "features", "weights", "digests"], ...]] = (),
    /,
    json: bool = False,
) -> None:
    """Show or clear what is kept on disk so that it is not computed again.

    It lies in ~/.cache/vlprompt, or where the variable VLPROMPT_CACHE says; 'off' keeps nothing.

    Args:
        action: 'clear' removes what this program wrote there.
        kinds: decoded images, features of frozen backbones, converted weights, digests; all by default.
        json: print a JSON list.
    """
    from vlprompt.cache import clear, usage

    if action == "clear":
        clear(kinds)
    rows = [kind._asdict() for kind in usage() if not kinds or kind.name in kinds]
    show_rows(rows, "json" if json else "table")
