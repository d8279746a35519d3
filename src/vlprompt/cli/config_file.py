"""A command's flags as a YAML file: ``vlprompt fit --config fit.yaml`` runs it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vlprompt.errors import UserError

POSITIONAL = ("data",)
FLAG = "--config"


def config_text(options: Any, settings: Mapping[str, Any]) -> str:
    """All flags of a run as YAML; what is empty is left out."""
    flags = dataclasses.asdict(options) | dict(settings)
    plain = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in flags.items()
        if name not in ("json", "lengths", "track", "force") and value not in (None, "", (), [])
    }
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def expand_config(argv: Sequence[str]) -> list[str]:
    """The command line with ``--config FILE`` replaced by the file's flags; later flags win.

    Raises:
        UserError: no file, or no YAML mapping of flags.
    """
    words = list(argv)
    if FLAG not in words:
        return words
    at = words.index(FLAG)
    if at + 1 == len(words):
        raise UserError("--config needs a file: give a YAML file such as fit.yaml of an earlier run")
    file, rest = Path(words[at + 1]), words[:at] + words[at + 2 :]
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config '{file}' cannot be read ({reason}): give a YAML file of flags") from error
    if not isinstance(content, dict):
        raise UserError(f"config '{file}' is no mapping of flags: write lines such as 'epochs: 20'")
    _refuse_code(file, content)
    first = [str(content.pop(name)) for name in POSITIONAL if name in content]
    given = [word for word in rest[:1] if not word.startswith("-")]
    flags = [word for name, value in content.items() for word in _flag(str(name), value, rest)]
    return (given or first) + flags + rest[len(given) :]


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
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, *map(str, value)] if isinstance(value, list) else [flag, str(value)]
