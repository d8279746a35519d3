"""The flags of a command whose settings are a method's: read from the command line in one flat list."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tyro.conf import OmitArgPrefixes

from vlprompt.cli.flags import read_flags


def parse(command: str, about: str, options: type, settings: Any, argv: Sequence[str]) -> tuple[Any, Any]:
    """Options and a method's settings.

    Args:
        about: what ``--help`` says.
        options: dataclass of the command's own flags.
        settings: the method's settings, whose values are the defaults.
    """
    together = dataclasses.make_dataclass(
        "Flags",
        [("options", options), ("settings", type(settings), dataclasses.field(default=settings))],
        kw_only=True,
        frozen=True,
    )
    parsed = read_flags(OmitArgPrefixes[together], command, argv, about)  # type: ignore[valid-type]
    return parsed.options, parsed.settings


def early(argv: Sequence[str], flag: str, default: str) -> str:
    """A flag's value before the parser is built, which depends on it."""
    for index, word in enumerate(argv):
        if word == flag and index + 1 < len(argv):
            return argv[index + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return default
