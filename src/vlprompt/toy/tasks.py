"""Tasks of the toy world: each a data set with class names, templates and splits, drawn when opened.

They are drawn in another style than the backbone's pictures, so that few-shot tuning has something
to learn; the real handwritten digits are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from vlprompt.data.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.toy import world
from vlprompt.toy.world import Scene, Style

SHIFTS = ("sketch", "noise", "occlusion", "palette")
COUNTS = {"train": 32, "val": 8, "test": 20}
"""Images a class in each split of a rendered task; a test split has at least MIN_TEST images."""
MIN_TEST = 400
HARD = Style(noise=0.45, blur=0.6, tilt=0.6, hue=0.25, clutter=0.7)


@dataclass(frozen=True)
class Rendering:
    """One image of a task; drawn when opened, the same every time."""

    task: str
    split: str
    label: int
    index: int
    shift: str | None = None

    def open(self) -> Image.Image:
        """The picture."""
        return _draw(self)


@dataclass(frozen=True)
class Task:
    """A rendered task: class names, templates and how a class's scene follows from it."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    scene: Callable[[Scene, str], Scene]
    style: Style = HARD


def changed(thing: Any, values: dict[str, Any]) -> Any:
    """A scene or style with other values."""
    return replace(thing, **values)


def _task(names: Sequence[str], templates: Sequence[str], kind: str, facet: str, **fixed: object) -> Task:
    """A task whose classes are the values of one facet of a scene."""
    return Task(
        tuple(names), tuple(templates), lambda s, name: changed(s, {"kind": kind, facet: name} | fixed)
    )


def _pairs(
    first: Sequence[str], second: Sequence[str], a: str, b: str, texts: Sequence[str], kind: str
) -> Task:
    """A task whose classes are pairs of facets, named "first second"."""
    pairs = {f"{x} {y}": (x, y) for x in first for y in second}
    return Task(
        tuple(pairs), tuple(texts), lambda s, n: changed(s, {"kind": kind, a: pairs[n][0], b: pairs[n][1]})
    )


@cache
def _rendered() -> dict[str, Task]:
    w = world
    colours = [c for c in w.COLOURS if c not in ("gray", "cyan")]
    return {
        "shapes": _task(w.SHAPES, ("a photo of a {}.", "a drawing of a {}."), "object", "shape"),
        "colours": _task(tuple(w.COLOURS), ("a photo of a {} object.", "a {} object."), "object", "colour"),
        "textures": _task(
            w.TEXTURES, ("a {} texture.", "a photo of a {} object."), "object", "texture", size="huge"
        ),
        "counting": Task(
            tuple(w.NUMBERS[1:]),
            ("a photo of {} objects.", "{} objects."),
            lambda s, name: replace(s, kind="count", number=w.NUMBERS.index(name)),
            replace(HARD, clutter=0.2),
        ),
        "directions": _task(
            w.DIRECTIONS, ("an arrow pointing {}.", "a photo of an arrow pointing {}."), "arrow", "direction"
        ),
        "positions": _task(
            w.POSITIONS, ("a photo of an object at the {}.", "an object at the {}."), "place", "position"
        ),
        "fonts": _task(
            tuple(w.FONTS), ("a letter in {} type.", "a photo of a letter in {} type."), "glyph", "font"
        ),
        "letters": Task(
            tuple("abcdefghijklmnopqrstuvwxyz"),
            ("the letter {}.", "a photo of the letter {}."),
            lambda s, name: replace(s, kind="glyph", glyph=name, written=True),
        ),
        "coloured-shapes": _pairs(
            colours, w.SHAPES[:8], "colour", "shape", ("a photo of a {}.", "a drawing of a {}."), "object"
        ),
        "textured-shapes": _pairs(
            w.TEXTURES[1:9],
            w.SHAPES[:8],
            "texture",
            "shape",
            ("a photo of a {}.", "a drawing of a {}."),
            "object",
        ),
    }


TASKS = (
    "shapes", "colours", "textures", "counting", "directions", "positions", "fonts", "letters",
    "coloured-shapes", "textured-shapes", "digits",
)  # fmt: skip


def load_task(name: str, shift: str | None = None) -> Dataset:
    """A task as a data set; with a shift, its test images are drawn in that way.

    Raises:
        UserError: no such task or shift.
    """
    if name not in TASKS:
        raise UserError(f"unknown task 'toy:{name}': there are {', '.join('toy:' + t for t in TASKS)}")
    if shift is not None and shift not in SHIFTS:
        raise UserError(f"unknown shift '{shift}': there are {', '.join(SHIFTS)}")
    if name == "digits":
        return _digits()
    task = _rendered()[name]
    classes = range(len(task.classnames))
    counts = COUNTS | {"test": max(COUNTS["test"], -(-MIN_TEST // len(classes)))}
    splits = {
        split: [
            Item(Rendering(name, split, k, i, shift if split == "test" else None), k)
            for k in classes
            for i in range(count)
        ]
        for split, count in counts.items()
    }
    return Dataset(f"toy:{name}", task.classnames, templates=task.templates, **splits)


def _draw(r: Rendering) -> Image.Image:
    task = _rendered()[r.task]
    key = [crc32(r.task.encode()), ("train", "val", "test").index(r.split), r.label, r.index]
    rng = np.random.default_rng([7_654_321, *key])
    scene = task.scene(world.random_scene(rng), task.classnames[r.label])
    if scene.ground == scene.colour:
        scene = replace(scene, ground="black" if scene.colour != "black" else "yellow")
    if scene.kind == "object" and scene.size == "tiny":
        scene = replace(scene, size="small")
    changes: dict[str, dict[str, Any]] = {
        "sketch": {"sketch": True},
        "noise": {"noise": 1.0, "blur": 1.0},
        "occlusion": {"occlude": True},
        "palette": {"recolour": True},
    }
    return world.draw(scene, rng, changed(task.style, changes.get(r.shift or "", {})))


@cache
def _digits() -> Dataset:
    """Real handwritten digits, 8 pixels square, a pool of 1797 (Optical Recognition, UCI)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = np.round(data.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    items = [Item(p, int(label)) for p, label in zip(pictures, data.target, strict=True)]
    templates = ("the handwritten digit {}.", "the number {}.", "a photo of the digit {}.")
    return Dataset("toy:digits", tuple(world.NUMBERS[:10]), items, templates=templates)
