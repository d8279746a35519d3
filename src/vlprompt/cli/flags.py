"""Reading a command's flags with tyro: what it refuses is one line, as every error is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import takewhile
from typing import Any

import tyro

from vlprompt.errors import UserError


def read_flags(into: Any, command: str, argv: Sequence[str], about: str | None = None) -> Any:
    """A dataclass of a command line, or what a function gives for it.

    Raises:
        UserError: flags that are unknown, missing or of another type.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(into, prog=f"vlprompt {command}", description=about, args=list(argv))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(f"{_reason(said.getvalue())}: see 'vlprompt {command} --help'") from None


def _reason(box: str) -> str:
    """The first paragraph of tyro's box: its title, a rule, paragraphs between rules."""
    lines = [line.strip() for line in box.strip().splitlines()][2:]
    body = takewhile(lambda line: line.strip("-") and line != "Got errors:", filter(None, lines))
    return " ".join(body).rstrip(".: ")
