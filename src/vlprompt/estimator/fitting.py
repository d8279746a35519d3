"""What ``fit`` settles before anything is loaded or trained: settings, templates, validation images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.methods.base import Method
from vlprompt.typed import Between, checked

VALIDATION = 4
"""Images a class that ``fit(X, y)`` holds out for a method that learns on validation images."""


def settings_for(kind: type[Method], dataset: Dataset, changes: dict[str, Any]) -> Any:
    """A method's published settings for as many images a class as there are, with changes.

    Raises:
        UserError: a change of what is no setting, or to a value that cannot be.
    """
    known = {f.name for f in fields(kind.Settings)}
    for name in changes:
        if name not in known:
            raise UserError(
                f"method '{kind.name}' has no setting '{name}': there are {', '.join(sorted(known))}"
            )
    return kind.settings_for(len(dataset.train) // len(dataset.classnames), **changes)


PARAMETERS = {
    "method": str,
    "model": str,
    "settings": dict[str, Any] | None,
    "preset": str,
    "augment": Literal["auto", "crop+flip", "crop", "gentle", "none"],
    "views": Annotated[int, Between(0, 1000)],
    "device": str,
    "verbose": bool,
}
"""Types of the estimator's parameters; those of the training have theirs in ``TrainOptions``."""


def check_parameters(given: Mapping[str, Any]) -> None:
    """Refuse parameters of other types.

    Raises:
        UserError: names the parameter and the value.
    """
    for name, hint in PARAMETERS.items():
        value = given[name]
        checked(str(value) if isinstance(value, Path) else value, hint, name)


def check_classnames(classnames: Iterable[str]) -> tuple[str, ...]:
    """The names; refuses one text instead of several, other things than texts, and none at all."""
    if isinstance(classnames, str | bytes):
        raise UserError(f"class names {classnames!r} are one text: give a list of names")
    names = tuple(classnames)
    for name in names or ("",):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"class name {name!r}: give a text for every class")
    return names


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates without a place for the class name, and none at all."""
    if isinstance(templates, str):
        raise UserError(f"templates '{templates}' are one text: give a list of templates")
    for template in templates or ("",):
        if not isinstance(template, str) or "{}" not in template:
            raise UserError(f"template '{template}': it needs {{}} where the class name shall stand")


def set_aside(items: Sequence[Item], count: int) -> tuple[list[Item], list[Item]]:
    """The last ``count`` items of each class, but at most a third of them, apart from the others."""
    of_class: dict[int, list[Item]] = {}
    for item in items:
        of_class.setdefault(item.label, []).append(item)
    kept, aside = [], []
    for members in of_class.values():
        cut = len(members) - min(count, len(members) // 3)
        kept += members[:cut]
        aside += members[cut:]
    return kept, aside
