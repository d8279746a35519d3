"""Changes to methods' settings as text: ``coop.epochs=20``."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from vlprompt.benchmark.suites import Changes
from vlprompt.errors import UserError
from vlprompt.methods import get_method


def parse_changes(changes: Sequence[str], methods: Sequence[str]) -> dict[str, Changes]:
    """``coop.epochs=20`` and others -> settings by method.

    Raises:
        UserError: not of this form; no such method or setting; a value of another type.
    """
    found: dict[str, Changes] = {}
    for change in changes:
        left, equals, text = change.partition("=")
        method, dot, name = left.rpartition(".")
        if not (equals and dot):
            raise UserError(f"--set '{change}': write METHOD.NAME=VALUE, such as coop.epochs=20")
        if method not in methods:
            raise UserError(f"--set '{change}': '{method}' is not among --methods {','.join(methods)}")
        hints = typing.get_type_hints(get_method(method, files=True).Settings)
        if name not in hints:
            raise UserError(
                f"method '{method}' has no setting '{name}' (--set '{change}'): "
                f"there are {', '.join(sorted(hints))}"
            )
        try:
            found.setdefault(method, {})[name] = _value(hints[name], text)
        except (ValueError, KeyError) as error:
            wanted = getattr(hints[name], "__name__", None) or str(hints[name])
            raise UserError(f"--set '{change}': '{text}' is no {wanted}: give one") from error
    return found


def _value(hint: Any, text: str) -> Any:
    """A setting's value from text: numbers, words, true or false, or numbers with commas."""
    if hint is bool:
        return {"true": True, "false": False}[text.lower()]
    if typing.get_origin(hint) is tuple:
        return tuple(_value(typing.get_args(hint)[0], part) for part in text.split(",") if part)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for kind in typing.get_args(hint):
            with suppress(ValueError, KeyError):
                return _value(kind, text)
        raise ValueError(text)
    if hint is types.NoneType:
        return {"none": None}[text.lower()]
    if typing.get_origin(hint) is Literal:
        return {choice: choice for choice in typing.get_args(hint)}[text]
    return hint(text)
