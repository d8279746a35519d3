"""How a scene of the toy world becomes a picture: ink on a ground, in a style.

The same seed gives the same picture on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from vlprompt.toy.masks import CANVAS, ink_mask
from vlprompt.toy.scenes import COLOURS, Scene

SIDE = 32
"""Side of a picture, to which what is drawn on the larger canvas is reduced."""


@dataclass(frozen=True)
class Style:
    """How a picture is drawn: each number is the strength of one disturbance, 0 to 1."""

    noise: float = 0.15
    blur: float = 0.2
    tilt: float = 0.25
    hue: float = 0.1
    clutter: float = 0.0
    sketch: bool = False
    occlude: bool = False
    recolour: bool = False


def draw(scene: Scene, rng: np.random.Generator, style: Style | None = None) -> Image.Image:
    """The picture of a scene, :data:`SIDE` pixels square, RGB."""
    style = style or Style()
    if style.recolour and scene.kind not in ("object",):
        names = list(COLOURS)
        scene = replace(scene, colour=names[rng.integers(len(names))])
    ink, ground = (_shade(COLOURS[c], rng, style.hue) for c in (scene.colour, scene.ground))
    if np.abs(np.subtract(ink, ground)).sum() < 120:  # ink and ground too much alike
        ground = (20, 20, 20) if sum(ink) > 380 else (240, 240, 240)
    picture = _ground(ground, rng, style)
    mask = ink_mask(scene, rng, style.tilt)
    filled = _texture(scene.texture if scene.kind == "object" else "plain", ink, rng)
    picture.paste(filled, mask=mask)
    if style.sketch:
        picture = ImageOps.invert(picture.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB")
    if style.recolour:
        picture = Image.fromarray(np.ascontiguousarray(np.asarray(picture)[..., rng.permutation(3)]))
    if style.occlude:
        _occlude(picture, rng)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    if rng.random() < style.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    return _noisy(picture, rng, style.noise)


def _shade(colour: tuple[int, int, int], rng: np.random.Generator, hue: float) -> tuple[int, int, int]:
    shifted = np.array(colour) * rng.uniform(1 - hue, 1 + hue, 3) + rng.uniform(-80, 80, 3) * hue
    r, g, b = shifted.clip(0, 255).astype(int).tolist()
    return r, g, b


def _ground(colour: tuple[int, int, int], rng: np.random.Generator, style: Style) -> Image.Image:
    picture = Image.new("RGB", (CANVAS, CANVAS), colour)
    if rng.random() < style.clutter:
        pen = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(2, 7))):
            a, b = rng.integers(0, CANVAS, (2, 2)).tolist()
            pen.line([*a, *b], _shade(colour, rng, 0.35), int(rng.integers(1, 5)))
    return picture


def _texture(name: str, ink: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """A canvas filled with a texture in the ink's colour."""
    if name == "plain":
        return Image.new("RGB", (CANVAS, CANVAS), ink)
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(float)
    period = float(rng.uniform(9, 13))
    x, y = x + rng.uniform(0, period), y + rng.uniform(0, period)
    wave = 2 * np.pi / period
    field: dict[str, Callable[[], np.ndarray]] = {
        "striped": lambda: np.sin(y * wave) > 0,
        "barred": lambda: np.sin(x * wave) > 0,
        "diagonal": lambda: np.sin((x + y) * wave * 0.75) > 0,
        "checkered": lambda: (np.sin(x * wave) > 0) ^ (np.sin(y * wave) > 0),
        "dotted": lambda: np.hypot(x % period - period / 2, y % period - period / 2) > period * 0.3,
        "shaded": lambda: y / y.max(),
        "wavy": lambda: np.sin((y + 4 * np.sin(x * wave * 0.6)) * wave) > 0,
        "zigzag": lambda: np.sin((y + 4 * np.abs((x % 14) / 7 - 1)) * wave) > 0,
        "grid": lambda: (x % period > period * 0.28) & (y % period > period * 0.28),
        "noisy": lambda: rng.random((CANVAS // 2, CANVAS // 2)).repeat(2, 0).repeat(2, 1) > 0.45,
        "concentric": lambda: np.sin(np.hypot(x - CANVAS / 2 - 5, y - CANVAS / 2 - 5) * wave) > 0,
    }
    light = field[name]().astype(float)[..., None]
    other = np.array([255, 255, 255]) if sum(ink) < 420 else np.array([25, 25, 25])
    pixels = light * np.array(ink) + (1 - light) * (0.35 * np.array(ink) + 0.65 * other)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _occlude(picture: Image.Image, rng: np.random.Generator) -> None:
    pen = ImageDraw.Draw(picture)
    for _ in range(2):
        x, y = rng.integers(0, CANVAS - 16, 2).tolist()
        w, h = rng.integers(10, 24, 2).tolist()
        pen.rectangle([x, y, x + w, y + h], tuple(rng.integers(0, 256, 3).tolist()))


def _noisy(picture: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    noise = rng.normal(0, 90 * strength * rng.random(), (SIDE, SIDE, 3))
    pixels = (np.asarray(picture).astype(float) + noise).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)
