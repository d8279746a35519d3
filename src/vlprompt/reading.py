"""Files of others as values: of a type, of a bounded size, from regular files only."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

import yaml

from vlprompt.typed import checked

LARGEST = 64_000_000
"""Bytes of a JSON file; a classifier of 20,000 classes has 2 MB."""
LARGEST_YAML = 1_000_000


def read_text(path: Path, largest: int = LARGEST) -> str:
    """A text file in UTF-8.

    Raises:
        OSError: it is not there, cannot be read or is no regular file.
        ValueError: it is too large, or no UTF-8.
    """
    check_regular(path)
    if path.stat().st_size > largest:
        raise ValueError(f"it is larger than {largest / 1e6:g} MB")
    return path.read_text(encoding="utf-8")


def check_regular(path: Path) -> None:
    """Refuse what would wait for ever: pipes, sockets, devices.

    Raises:
        OSError: it is not there, or no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "it is no regular file", str(path))


def parse_json(text: str | bytes, hint: Any = Any, place: str = "the file") -> Any:
    """JSON as a value of a type; see :func:`vlprompt.typed.checked`.

    Raises:
        ValueError: no JSON, nested too deeply, numbers that are none, half characters.
        UserError: of another type.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if r"\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # \ud800 alone could not be written again
        return checked(value, hint, place)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a character of UTF-16") from error


def parse_yaml(text: str) -> Any:
    """Plain YAML without anchors.

    Raises:
        ValueError: no YAML, nested too deeply, an alias.
    """
    try:
        return yaml.load(text, _Plain)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _Plain(yaml.SafeLoader):
    """Without aliases, of which a few lines make gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken: write the value where it is meant")
        return super().compose_node(parent, index)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value
