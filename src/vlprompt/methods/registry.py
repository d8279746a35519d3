"""The methods by name: found by looking into this folder, joined by ``+``, or from a file of one's own."""

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from dataclasses import make_dataclass
from functools import cache
from pathlib import Path

from vlprompt.errors import UserError
from vlprompt.methods.base import Method

_OWN = "method_file_"
"""Modules of files of one's own begin so."""


@cache
def all_methods() -> dict[str, type[Method]]:
    """Name -> class of every method of this package, by year."""
    here = pkgutil.iter_modules([str(Path(__file__).parent)])
    names = [f"{m.name}.{m.name}" if m.ispkg else m.name for m in here if m.name != "registry"]
    found = [_method_in(importlib.import_module(f"vlprompt.methods.{name}")) for name in names]
    return {m.name: m for m in sorted(filter(None, found), key=lambda m: (m.year, m.name))}


def get_method(name: str, files: bool = False) -> type[Method]:
    """A method by name, or several joined by ``+``.

    ``dpl+kgcoop`` trains DPL's prompts with what KgCoOp adds to the cross-entropy.

    Args:
        files: a name may be a file of one's own (``my_method.py``), which is then executed. Only for names
            that the person gave just now: one that stands in a file may come from anybody.

    Raises:
        UserError: no such method or file; lists the methods there are. Methods that cannot be joined.
    """
    if "+" in name:
        return _compose(name, files)
    if is_file(name) and files:
        return _from_file(Path(name))
    if name not in all_methods():
        raise UserError(
            f"unknown method '{name}': there are {', '.join(all_methods())}, or give a file my_method.py"
        )
    return all_methods()[name]


def is_file(part: str) -> bool:
    """Whether a method, or one of several that are joined, is a file of one's own."""
    return part.endswith(".py")


@cache
def _compose(name: str, files: bool) -> type[Method]:
    """The first method's prompts with the added losses of the others."""
    prompts, *others = [get_method(part, files) for part in name.split("+")]
    if prompts.loss is not Method.loss:
        raise UserError(f"method '{prompts.name}' has a loss of its own: no other can be added ('{name}')")
    learned_in_steps = prompts.forward is Method.forward and prompts.objectives is Method.objectives
    if not learned_in_steps or prompts.build is Method.build:
        raise UserError(f"method '{prompts.name}' learns no prompts: nothing can be added to it ('{name}')")
    if twice := [other.name for other in others if others.count(other) > 1]:
        raise UserError(f"method '{twice[0]}' is added twice ('{name}'): once is enough")
    losses: list[type[Method]] = []
    for other in others:
        if other.added is None:
            able = ", ".join(n for n, m in all_methods().items() if m.added)
            raise UserError(f"method '{other.name}' adds nothing to the cross-entropy: add one of {able}")
        if issubclass(prompts, other.added):
            raise UserError(f"method '{prompts.name}' has what '{other.name}' adds already ('{name}')")
        if _predicts(prompts) and other.added.class_features is not Method.class_features:
            raise UserError(
                f"method '{prompts.name}' predicts from class features before '{other.name}' changes them: "
                f"join them the other way round ('{other.name}+{prompts.name}')"
            )
        if any(issubclass(one, other.added) or issubclass(other.added, one) for one in losses):
            raise UserError(f"another of '{name}' has what '{other.name}' adds already: leave one out")
        losses.append(other.added)
    bases = (*(loss.Settings for loss in losses), prompts.Settings)
    settings = make_dataclass("Settings", [], bases=bases, frozen=True, kw_only=True)
    settings.__doc__ = f"{prompts.title} with what {', '.join(o.title for o in others)} adds."
    losses.sort(key=_predicts, reverse=True)  # from what all others make of the class features
    described = {
        "name": name,
        "title": " + ".join(m.title for m in (prompts, *others)),
        "Settings": settings,
        "needs": prompts.needs.union(*(loss.needs for loss in losses)),
        "__doc__": settings.__doc__,
        "__module__": prompts.__module__,
    }
    return type(prompts.__name__, (*losses, prompts), described)


def _predicts(method: type[Method]) -> bool:
    """Whether it predicts with class features that are not those of its training."""
    return method.predicting_features is not Method.predicting_features


def _from_file(path: Path) -> type[Method]:
    spec = importlib.util.spec_from_file_location(_OWN + path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"method file '{path}' does not exist: give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file does
        raise UserError(f"method file '{path}' cannot be imported ({error!r}): mend it") from error
    method = _method_in(module)
    if method is None:
        raise UserError(f"'{path}' holds no subclass of vlprompt.methods.base.Method with a 'name': add one")
    for said in ("title", "paper", "year", "learns"):
        if not hasattr(method, said):
            raise UserError(f"class '{method.__name__}' of method file '{path}' has no '{said}': add it")
    return method


def fault_of_a_file(error: BaseException) -> UserError | None:
    """What went wrong, in a line, where it did so within a method file of one's own."""
    frames = [f for f in traceback.walk_tb(error.__traceback__) if _OWN in f[0].f_globals.get("__name__", "")]
    if not frames:
        return None
    frame, line = frames[-1]
    where = f"method file '{frame.f_code.co_filename}', line {line}, in {frame.f_code.co_name}"
    return UserError(f"{where}: {type(error).__name__}: {error}")


def _method_in(module: object) -> type[Method] | None:
    """The method that a module defines: its last subclass of ``Method`` with a name of its own."""
    here = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and "name" in vars(value)
        and value.__module__ == getattr(module, "__name__", None)
    ]
    return here[-1] if here else None
