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
from PIL import Image, ImageFilter, ImageOps

from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.toy import world
from vlprompt.toy.world import Scene, Style

SHIFTS = ("sketch", "noise", "occlusion", "palette")
COUNTS = {"train": 32, "val": 8, "test": 20}
"""Images a class in each split of a rendered task; a test split has at least MIN_TEST images."""
MIN_TEST = 400
STYLE = Style(noise=0.25, blur=0.3, tilt=0.4, hue=0.15, clutter=0.4)


Camera = Callable[[Image.Image], Image.Image]
"""What a task is seen through."""

# The cameras: the backbone has seen no picture through them, as a photo model has seen few from a satellite.


def _waves(picture: Image.Image) -> Image.Image:
    """As through moving water: rows are shifted by a sine."""
    rows = np.asarray(picture)  # (H, W, 3)
    shifts = np.rint(4 * np.sin(np.arange(len(rows)) / 3)).astype(int)
    return Image.fromarray(np.stack([np.roll(row, n, 0) for row, n in zip(rows, shifts, strict=True)]))


def _lamp(picture: Image.Image) -> Image.Image:
    """In the light of a yellow lamp."""
    return Image.fromarray((np.asarray(picture) * np.array([1.0, 0.8, 0.5])).astype(np.uint8))


def _edges(picture: Image.Image) -> Image.Image:
    """Edges alone, without the border that the filter makes."""
    inner = picture.filter(ImageFilter.FIND_EDGES).crop((1, 1, picture.width - 1, picture.height - 1))
    return ImageOps.autocontrast(inner.resize(picture.size))


def _mosaic(picture: Image.Image) -> Image.Image:
    """Ten by ten tiles."""
    tiles = picture.resize((10, 10), Image.Resampling.BOX)
    return tiles.resize(picture.size, Image.Resampling.NEAREST)


def _thermal(picture: Image.Image) -> Image.Image:
    """Brightness in false colours."""
    return ImageOps.colorize(ImageOps.autocontrast(picture.convert("L")), "navy", "yellow", "magenta")


def _sideways(picture: Image.Image) -> Image.Image:
    """The camera lies on its side."""
    return picture.transpose(Image.Transpose.ROTATE_90)


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


def changed(thing: Any, values: dict[str, Any]) -> Any:
    """A scene or style with other values."""
    return replace(thing, **values)


def _task(
    names: Sequence[str],
    templates: Sequence[str],
    camera: Camera,
    kind: str,
    facet: str,
    **fixed: object,
) -> Task:
    """A task whose classes are the values of one facet of a scene."""
    return Task(
        tuple(names),
        tuple(templates),
        lambda s, name: changed(s, {"kind": kind, facet: name} | fixed),
        camera,
    )


def _pairs(first: Sequence[str], second: Sequence[str], a: str, b: str, camera: Camera) -> Task:
    """A task whose classes are objects with pairs of facets, named "first second"."""
    pairs = {f"{x} {y}": (x, y) for x in first for y in second}
    return Task(
        tuple(pairs),
        ("a photo of a {}.", "a drawing of a {}."),
        lambda s, name: changed(s, {"kind": "object", a: pairs[name][0], b: pairs[name][1]}),
        camera,
    )


@cache
def _rendered() -> dict[str, Task]:
    w, negative = world, ImageOps.invert
    colours = [c for c in w.COLOURS if c not in ("gray", "cyan")]
    return {
        "shapes": _task(w.SHAPES, ("a photo of a {}.", "a drawing of a {}."), _sideways, "object", "shape"),
        "colours": _task(
            tuple(w.COLOURS), ("a photo of a {} object.", "a {} object."), _lamp, "object", "colour"
        ),
        "textures": _task(
            w.TEXTURES,
            ("a {} texture.", "a photo of a {} object."),
            _thermal,
            "object",
            "texture",
            size="huge",
        ),
        "counting": Task(
            tuple(w.NUMBERS[1:]),
            ("a photo of {} objects.", "{} objects."),
            lambda s, name: replace(s, kind="count", number=w.NUMBERS.index(name)),
            _mosaic,
            replace(STYLE, clutter=0.2),
        ),
        "directions": _task(
            w.DIRECTIONS,
            ("an arrow pointing {}.", "a photo of an arrow pointing {}."),
            _waves,
            "arrow",
            "direction",
        ),
        "positions": _task(
            w.POSITIONS,
            ("a photo of an object at the {}.", "an object at the {}."),
            _edges,
            "place",
            "position",
        ),
        "fonts": _task(
            tuple(w.FONTS),
            ("a letter in {} type.", "a photo of a letter in {} type."),
            negative,
            "glyph",
            "font",
        ),
        "letters": Task(
            tuple("abcdefghijklmnopqrstuvwxyz"),
            ("the letter {}.", "a photo of the letter {}."),
            lambda s, name: replace(s, kind="glyph", glyph=name, written=True),
            _mosaic,
        ),
        "coloured-shapes": _pairs(colours, w.SHAPES[:8], "colour", "shape", _lamp),
        "textured-shapes": _pairs(w.TEXTURES[1:9], w.SHAPES[:8], "texture", "shape", negative),
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
    return task.camera(world.draw(scene, rng, changed(task.style, changes.get(r.shift or "", {}))))


@cache
def _digits() -> Dataset:
    """Real handwritten digits, 8 pixels square, a pool of 1797 (Optical Recognition, UCI)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = np.round(data.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    items = [Item(p, int(label)) for p, label in zip(pictures, data.target, strict=True)]
    templates = ("the handwritten digit {}.", "the number {}.", "a photo of the digit {}.")
    return Dataset("toy:digits", tuple(world.NUMBERS[:10]), items, templates=templates)
