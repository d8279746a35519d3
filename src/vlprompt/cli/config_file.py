"""A command's flags as a YAML file: ``vlprompt fit --config fit.yaml`` runs it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vlprompt.errors import UserError
from vlprompt.reading import LARGEST_YAML, parse_yaml, read_text

POSITIONAL = ("data",)
FLAG = "--config"


def config_text(options: Any, settings: Mapping[str, Any]) -> str:
    """All flags that decide a run's numbers, as YAML."""
    flags = dataclasses.asdict(options) | dict(settings)
    plain = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in flags.items()
        if name not in ("json", "lengths", "track", "force", "plan")
    }
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def expand_config(argv: Sequence[str]) -> list[str]:
    """The command line with ``--config FILE`` replaced by the file's flags; later flags win.

    Raises:
        UserError: no file, or no YAML mapping of flags.
    """
    words = list(argv)
    given = [at for at, word in enumerate(words) if word == FLAG or word.startswith(f"{FLAG}=")]
    if not given:
        return words
    at, equals = given[0], words[given[0]].partition("=")
    if len(given) > 1 or (not equals[1] and at + 1 == len(words)):
        raise UserError("--config needs one file: give a YAML file such as fit.yaml of an earlier run")
    file = Path(equals[2] if equals[1] else words[at + 1])
    rest = words[:at] + words[at + 1 + (not equals[1]) :]
    try:
        content = parse_yaml(read_text(file, LARGEST_YAML))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"config '{file}' cannot be read ({reason}): give a YAML file of flags") from error
    if not isinstance(content, dict):
        raise UserError(f"config '{file}' is no mapping of flags: write lines such as 'epochs: 20'")
    _refuse_code(file, content)
    first = [str(content.pop(name)) for name in POSITIONAL if name in content]
    positional = [word for word in rest[:1] if not word.startswith("-")]
    flags = [word for name, value in content.items() for word in _flag(str(name), value, rest)]
    return (positional or first) + flags + rest[len(positional) :]


def _refuse_code(file: Path, content: Mapping[str, Any]) -> None:
    """A file that one was given names no code to execute."""
    from vlprompt.methods.registry import is_file

    for flag in ("method", "methods"):
        value = content.get(flag, "")
        for name in value if isinstance(value, list) else str(value).split(","):
            if any(is_file(part) for part in str(name).split("+")):
                raise UserError(
                    f"config '{file}' names the method file '{name}', which is executed only where the "
                    f"command names it: take it out of the file and give --{flag} {name}"
                )


def _flag(name: str, value: Any, given: Sequence[str]) -> list[str]:
    """One entry as words of a command line; none where the command line has it."""
    flag = "--" + name.replace("_", "-")
    if any(word.split("=")[0].replace("_", "-") in (flag, f"--no-{flag[2:]}") for word in given):
        return []
    return flag_words(name, value)


def flag_words(name: str, value: Any) -> list[str]:
    """An option or a setting as words of a command line."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list | tuple):
        return [flag, *map(str, value)]
    # A text that looks like a flag is one unless it is joined to its own.
    return [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
