"""Tasks of the toy world: each a data set with class names, templates and splits, drawn when opened.

They are drawn in another style than the backbone's pictures, so that few-shot tuning has something
to learn; the real handwritten digits are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image, ImageOps

from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.toy.cameras import Camera, edges, lamp, mosaic, sideways, thermal, waves
from vlprompt.toy.drawing import Style, draw
from vlprompt.toy.scenes import (
    COLOURS,
    DIRECTIONS,
    FONTS,
    LETTERS,
    NUMBERS,
    POSITIONS,
    SHAPES,
    TEXTURES,
    Scene,
    random_scene,
)
from vlprompt.toy.stdlib import load_stdlib

SHIFTS = ("sketch", "noise", "occlusion", "palette")
COUNTS = {"train": 32, "val": 8, "test": 20}
"""Images a class in each split of a rendered task; a test split has at least MIN_TEST images."""
MIN_TEST = 400
OBJECT = ("a photo of a {}.", "a drawing of a {}.")
STYLE = Style(noise=0.25, blur=0.3, tilt=0.4, hue=0.15, clutter=0.4)


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
    """A rendered task: class names, templates, how a class's scene follows and what it is seen through."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    scene: Callable[[Scene, str], Scene]
    camera: Camera
    style: Style = STYLE


def _changed(thing: Any, values: dict[str, Any]) -> Any:
    """A scene or style with other values."""
    return replace(thing, **values)


def _task(
    names: Iterable[str], templates: tuple[str, ...], camera: Camera, kind: str, facet: str, **fixed: object
) -> Task:
    """A task whose classes are the values of one facet of a scene."""
    return Task(
        tuple(names),
        templates,
        lambda s, name: _changed(s, {"kind": kind, facet: name} | fixed),
        camera,
    )


def _pairs(first: Iterable[str], second: Sequence[str], a: str, b: str, camera: Camera) -> Task:
    """A task whose classes are objects with pairs of facets, named "first second"."""
    pairs = {f"{x} {y}": (x, y) for x in first for y in second}
    return Task(
        tuple(pairs),
        OBJECT,
        lambda s, name: _changed(s, {"kind": "object", a: pairs[name][0], b: pairs[name][1]}),
        camera,
    )


RENDERED = {
    "shapes": _task(SHAPES, OBJECT, sideways, "object", "shape"),
    "colours": _task(COLOURS, ("a photo of a {} object.", "a {} object."), lamp, "object", "colour"),
    "textures": _task(
        TEXTURES, ("a {} texture.", "a photo of a {} object."), thermal, "object", "texture", size="huge"
    ),
    "counting": Task(
        NUMBERS[1:],
        ("a photo of {} objects.", "{} objects."),
        lambda s, name: replace(s, kind="count", number=NUMBERS.index(name)),
        mosaic,
        replace(STYLE, clutter=0.2),
    ),
    "directions": _task(
        DIRECTIONS,
        ("an arrow pointing {}.", "a photo of an arrow pointing {}."),
        waves,
        "arrow",
        "direction",
    ),
    "positions": _task(
        POSITIONS, ("a photo of an object at the {}.", "an object at the {}."), edges, "place", "position"
    ),
    "fonts": _task(
        FONTS, ("a letter in {} type.", "a photo of a letter in {} type."), ImageOps.invert, "glyph", "font"
    ),
    "letters": _task(
        LETTERS, ("the letter {}.", "a photo of the letter {}."), mosaic, "glyph", "glyph", written=True
    ),
    "coloured-shapes": _pairs(
        (c for c in COLOURS if c not in ("gray", "cyan")), SHAPES[:8], "colour", "shape", lamp
    ),
    "textured-shapes": _pairs(TEXTURES[1:9], SHAPES[:8], "texture", "shape", ImageOps.invert),
}
TASKS = (*RENDERED, "digits")
TEXTS = "stdlib"
"""The task whose examples are texts."""


def load_task(name: str, shift: str | None = None) -> Dataset:
    """A task as a data set; with a shift, its test images are drawn in that way.

    Raises:
        UserError: no such task or shift.
    """
    if name not in (*TASKS, TEXTS):
        there = ", ".join(f"toy:{task}" for task in (*TASKS, TEXTS))
        raise UserError(f"unknown task 'toy:{name}': there are {there}")
    if shift is not None and shift not in SHIFTS:
        raise UserError(f"unknown shift '{shift}': there are {', '.join(SHIFTS)}")
    if name == "digits":
        return _digits()
    if name == TEXTS:
        return load_stdlib()
    task = RENDERED[name]
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
    train, val, test = (splits[split] for split in ("train", "val", "test"))
    return Dataset(f"toy:{name}", task.classnames, train, val, test, task.templates)


def _draw(r: Rendering) -> Image.Image:
    task = RENDERED[r.task]
    key = [crc32(r.task.encode()), ("train", "val", "test").index(r.split), r.label, r.index]
    rng = np.random.default_rng([7_654_321, *key])
    scene = task.scene(random_scene(rng), task.classnames[r.label])
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
    return task.camera(draw(scene, rng, _changed(task.style, changes.get(r.shift or "", {}))))


@cache
def _digits() -> Dataset:
    """Real handwritten digits, 8 pixels square, a pool of 1797 (Optical Recognition, UCI)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = np.round(data.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    items = [Item(p, int(label)) for p, label in zip(pictures, data.target, strict=True)]
    templates = ("the handwritten digit {}.", "the number {}.", "a photo of the digit {}.")
    return Dataset("toy:digits", tuple(NUMBERS[:10]), items, templates=templates)
