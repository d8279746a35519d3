"""Values of others: of the type, and within the bounds, that a hint asks for.

One checker for settings, for the estimator's parameters and for what is read from files. Bounds stand where
the type does: ``epochs: Annotated[int, Between(0, 100_000)]``.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union

from vlprompt.errors import UserError

_HINTS: dict[Any, dict[str, Any]] = {}


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included.

    Args:
        open: whether the bounds themselves are excluded: "low", "high" or "" for neither.
    """

    low: float
    high: float
    open: Literal["", "low", "high"] = ""

    def holds(self, value: float) -> bool:
        """Whether a number lies within."""
        above = value > self.low if self.open == "low" else value >= self.low
        return above and (value < self.high if self.open == "high" else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open == "low" else f"from {self.low:g}"
        return f"{low} {'to below' if self.open == 'high' else 'up to'} {self.high:g}"


Share = Annotated[float, Between(0, 1)]
Positive = Annotated[float, Between(0, 1e9, "low")]
Rate = Annotated[float, Between(0, 100)]
"""A learning rate."""
Epochs = Annotated[int, Between(0, 100_000)]
BatchSize = Annotated[int, Between(1, 100_000)]
Length = Annotated[int, Between(0, 512)]
"""Context tokens of a layer."""
Seed = Annotated[int, Between(0, 2**32 - 1)]
Views = Annotated[int, Between(0, 1000)]
"""Augmented views of an image."""
USUAL = Between(0, 1e9)
"""Bounds of a number that names no others."""


def checked(value: Any, hint: Any, place: str) -> Any:
    """The value, as the hint's type: lists become tuples, mappings dataclasses, where it asks for these.

    Args:
        hint: bool, int, float, str, None, Any, Literal, a union, tuple[T, ...], list[T], dict[K, V], a
            ``TypedDict``, a dataclass, each also in Annotated with :class:`Between`.
        place: what the value is, for the error.

    Raises:
        UserError: it is none; names the place and the value.
    """
    bounds, hint = (USUAL, hint) if typing.get_origin(hint) is not Annotated else _annotated(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _any_of(value, inner, bounds, place)
    if origin is Literal:
        if not isinstance(value, str | bool | int) or value not in inner:
            raise _refused(value, f"one of {', '.join(map(repr, inner))}", place)
        return value
    if hint in (int, float):
        return _number(value, hint, bounds, place)
    if hint in (str, bool, NoneType, None):
        if not isinstance(value, NoneType if hint is None else hint):
            raise _refused(value, {str: "a text", bool: "true or false"}.get(hint, "nothing"), place)
        return value
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise _refused(value, "a list", place)
        return origin(checked(v, inner[0], f"{place}[{i}]") for i, v in enumerate(value))
    return _mapping(value, hint, origin, inner, place)


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass by its hint, from ``__post_init__``.

    Raises:
        UserError: a value that a field cannot have.
    """
    known = hints(type(instance))
    for field in fields(instance):
        value = checked(getattr(instance, field.name), known[field.name], field.name)
        object.__setattr__(instance, field.name, value)


def hints(kind: Any) -> dict[str, Any]:
    """The hints of a class's fields, with their bounds."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind, include_extras=True)
    return _HINTS[kind]


def _annotated(hint: Any) -> tuple[Between, Any]:
    own, *notes = typing.get_args(hint)
    return next((note for note in notes if isinstance(note, Between)), USUAL), own


def _number(value: Any, hint: type, bounds: Between, place: str) -> Any:
    whole = "a whole number" if hint is int else "a number"
    right = isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not bounds.holds(value):
        raise _refused(value, f"{whole} {bounds}", place)
    return int(value) if isinstance(value, Integral) else float(value)


def _any_of(value: Any, kinds: Sequence[Any], bounds: Between, place: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    problem = UserError(place)
    for kind in kinds:
        try:
            return checked(value, Annotated[kind, bounds], place)
        except UserError as error:
            problem = error if kind is not NoneType else problem
    raise problem


def _mapping(value: Any, hint: Any, origin: Any, inner: Sequence[Any], place: str) -> Any:
    if not isinstance(value, Mapping):
        raise _refused(value, "names with values", place)
    if origin is dict:
        return {
            checked(k, inner[0], f"{place} key"): checked(v, inner[1], f"{place}.{k}")
            for k, v in value.items()
        }
    known = hints(hint)
    # Not by __required_keys__, which does not see NotRequired in hints that are kept as text.
    needed = {k for k, h in known.items() if k not in vars(hint) and typing.get_origin(h) is not NotRequired}
    if absent := sorted(needed - value.keys()):
        raise UserError(f"{place}: '{absent[0]}' is missing")
    if unknown := sorted(map(str, value.keys() - known.keys())):
        raise UserError(f"{place}: '{unknown[0]}' is not known")
    found = {k: checked(v, _bare(known[k]), f"{place}.{k}") for k, v in value.items()}
    return found if typing.is_typeddict(hint) else hint(**found)


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (NotRequired, Required) else hint


def _refused(value: Any, wanted: str, place: str) -> UserError:
    shown = str(value) if isinstance(value, str | int | float) else repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:60]}..."
    return UserError(f"{place} {shown}: give {wanted}")
