"""The toy world: small pictures drawn from a seed, with captions.

A :class:`Scene` says what is to be seen; ``draw`` makes the picture in a :class:`Style`, ``caption``
says it in words. The same seed gives the same picture on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

CANVAS = 64
"""Pictures are drawn at this side and reduced to :data:`SIDE`."""
SIDE = 32

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 220, 50),
    "orange": (250, 140, 20),
    "purple": (130, 50, 170),
    "pink": (250, 130, 190),
    "brown": (125, 75, 35),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "cyan": (40, 205, 215),
}
SHAPES = (
    "circle", "square", "triangle", "star", "cross", "heart",
    "diamond", "pentagon", "hexagon", "ring", "crescent", "oval",
)  # fmt: skip
TEXTURES = (
    "plain", "striped", "barred", "checkered", "dotted", "shaded",
    "wavy", "zigzag", "grid", "noisy", "diagonal", "concentric",
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ANGLES = {
    "right": 0, "upper right": 45, "up": 90, "upper left": 135,
    "left": 180, "lower left": 225, "down": 270, "lower right": 315,
}  # fmt: skip
DIRECTIONS = (*ANGLES, "left and right", "up and down")
SPOTS = {
    "top left": (0.2, 0.2), "top": (0.5, 0.2), "top right": (0.8, 0.2),
    "left": (0.2, 0.5), "center": (0.5, 0.5), "right": (0.8, 0.5),
    "bottom left": (0.2, 0.8), "bottom": (0.5, 0.8), "bottom right": (0.8, 0.8),
}  # fmt: skip
POSITIONS = (*SPOTS, "left and right", "top and bottom", "all corners")
FONTS = {
    "sans": "DejaVuSans",
    "bold sans": "DejaVuSans-Bold",
    "slanted sans": "DejaVuSans-Oblique",
    "serif": "DejaVuSerif",
    "bold serif": "DejaVuSerif-Bold",
    "italic serif": "DejaVuSerif-Italic",
    "mono": "DejaVuSansMono",
    "bold mono": "DejaVuSansMono-Bold",
    "slanted mono": "DejaVuSansMono-Oblique",
    "book": "STIXGeneral",
    "italic book": "STIXGeneralItalic",
    "bold book": "STIXGeneralBol",
}
SIZES = {"tiny": 0.13, "small": 0.2, "medium": 0.28, "large": 0.36, "huge": 0.46}


@dataclass(frozen=True)
class Scene:
    """What a picture shows; ``kind`` is one of ``object``, ``count``, ``arrow``, ``place``, ``glyph``."""

    kind: str
    shape: str = "circle"
    colour: str = "red"
    texture: str = "plain"
    ground: str = "white"
    number: int = 1
    direction: str = "right"
    position: str = "center"
    size: str = "medium"
    glyph: str = "a"
    font: str = "sans"
    written: bool = False
    """the glyph is distorted as by hand and reduced to a few pixels"""


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


# Scenes and captions.


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene as the backbone is trained on."""

    def pick(names: object) -> str:
        options = list(names)  # type: ignore[call-overload]
        return options[rng.integers(len(options))]

    kind = str(
        rng.choice(
            ["object", "count", "arrow", "place", "glyph", "digit"], p=[0.35, 0.11, 0.1, 0.11, 0.19, 0.14]
        )
    )
    colour, ground = pick(COLOURS), pick(COLOURS)
    while ground == colour:
        ground = pick(COLOURS)
    texture = pick(TEXTURES) if kind == "object" and rng.random() < 0.7 else "plain"
    scene = Scene(kind, pick(SHAPES), colour, texture, ground, int(rng.integers(1, 11)))
    scene = replace(
        scene, direction=pick(DIRECTIONS), position=pick(POSITIONS), size=pick(SIZES), font=pick(FONTS)
    )
    if kind == "glyph":
        return replace(scene, glyph="abcdefghijklmnopqrstuvwxyz"[rng.integers(26)])
    if kind == "digit":
        written = bool(rng.random() < 0.75)
        return replace(scene, kind="glyph", glyph="0123456789"[rng.integers(10)], written=written)
    return scene


FRAMES = ("{}.", "a photo of {}.", "a picture of {}.", "an image of {}.", "a drawing of {}.", "this is {}.")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Words for a scene; which facets they name is drawn."""
    s, coin = scene, rng.random(4)
    colour = f"{s.colour} " if coin[0] < 0.6 else ""
    if s.kind == "glyph":
        digit = s.glyph.isdigit()
        name = NUMBERS[int(s.glyph)] if digit and coin[1] < 0.6 else s.glyph
        what = "digit" if digit and coin[2] < 0.5 else "number" if digit else "letter"
        words = f"the {what} {name}"
        if s.written:
            words = f"the handwritten {what} {name}" if coin[3] < 0.4 else words
        elif coin[3] < 0.5:
            words = f"{words} in {s.font} type" if coin[0] < 0.6 else f"a {what} in {s.font} type"
    elif s.kind == "count":
        plural = s.shape + ("es" if s.shape == "cross" else "" if s.number == 1 else "s")
        plural = s.shape if s.number == 1 else plural
        words = (
            f"{NUMBERS[s.number]} {colour if coin[1] < 0.5 else ''}{plural if coin[2] < 0.6 else 'objects'}"
        )
    elif s.kind == "arrow":
        words = f"a {colour if coin[1] < 0.5 else ''}arrow pointing {s.direction}"
    elif s.kind == "place":
        what = s.shape if coin[2] < 0.7 else "object"
        words = f"a {colour if coin[1] < 0.5 else ''}{what} at the {s.position}"
    else:
        texture = f"{s.texture} " if coin[1] < 0.65 and s.texture != "plain" else ""
        shape = s.shape if coin[2] < 0.75 else "object"
        size = f"{s.size} " if coin[3] < 0.15 else ""
        words = f"a {size}{texture}{colour}{shape}"
        if coin[3] > 0.85:
            words += f" on {s.ground}"
        elif coin[3] > 0.75 and texture:
            words = f"a {s.texture} texture"
    if words.startswith(("a object", "a arrow", "a oval", "a orange")):
        words = "an" + words[1:]
    return FRAMES[rng.integers(len(FRAMES))].replace("{}", words)


# Drawing.


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
    mask = _mask(scene, rng, style)
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


def _mask(scene: Scene, rng: np.random.Generator, style: Style) -> Image.Image:
    """Where the ink is: (CANVAS, CANVAS), greyscale."""
    tilt = float(rng.normal() * 25 * style.tilt)
    radius = SIZES[scene.size] * CANVAS * float(rng.uniform(0.9, 1.1))
    jitter = rng.uniform(-0.05, 0.05, (10, 2))
    if scene.kind == "glyph":
        return _glyph(scene, rng, tilt)
    if scene.kind == "arrow":
        angle = {"left and right": 0, "up and down": 90}.get(scene.direction)
        both = angle is not None
        angle = ANGLES[scene.direction] if angle is None else angle
        return _polygons([_arrow(angle + tilt * 0.4, float(rng.uniform(0.3, 0.42)), both)], jitter[0])
    if scene.kind == "place":
        spots = {
            "left and right": ("left", "right"),
            "top and bottom": ("top", "bottom"),
            "all corners": ("top left", "top right", "bottom left", "bottom right"),
        }.get(scene.position, (scene.position,))
        places = [np.array(SPOTS[s]) + j for s, j in zip(spots, jitter, strict=False)]
        return _stamp(scene.shape, places, CANVAS * float(rng.uniform(0.1, 0.16)), tilt)
    if scene.kind == "count":
        cells = [(x, y) for x in (0.18, 0.5, 0.82) for y in (0.14, 0.38, 0.62, 0.86)]
        chosen = rng.permutation(len(cells))[: scene.number]
        places = [np.array(cells[i]) + j * 0.7 for i, j in zip(chosen, jitter, strict=False)]
        return _stamp(scene.shape, places, CANVAS * 0.095, tilt)
    centre = np.array((0.5, 0.5)) + jitter[0] * 1.6
    return _stamp(scene.shape, [centre], radius, tilt)


def _stamp(shape: str, places: list[np.ndarray], radius: float, tilt: float) -> Image.Image:
    mask = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(mask)
    for place in places:
        x, y = (place * CANVAS).tolist()
        if shape in ("circle", "ring", "crescent"):
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], 255)
            if shape != "circle":
                r, shift = (0.55, 0.0) if shape == "ring" else (0.85, 0.45)
                x += shift * radius
                pen.ellipse([x - r * radius, y - r * radius, x + r * radius, y + r * radius], 0)
            continue
        points = _outline(shape) * radius
        angle = math.radians(tilt)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        pen.polygon([tuple(p) for p in (points @ turn.T + (x, y)).tolist()], fill=255)
    return mask


@lru_cache(maxsize=32)
def _outline(shape: str) -> np.ndarray:
    """Corners (n, 2) of a shape of radius 1."""

    def regular(n: int, start: float = -90) -> np.ndarray:
        at = np.radians(start + np.arange(n) * 360 / n)
        return np.stack([np.cos(at), np.sin(at)], 1)

    at = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    if shape == "star":
        return regular(10) * np.where(np.arange(10) % 2, 0.42, 1.05)[:, None]
    if shape == "cross":
        a, b = 0.33, 0.95
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a)]
        return np.array([*corners, (-b, -a), (-a, -a)])
    if shape == "heart":
        x = 16 * np.sin(at) ** 3
        y = -(13 * np.cos(at) - 5 * np.cos(2 * at) - 2 * np.cos(3 * at) - np.cos(4 * at))
        return np.stack([x, y], 1) / 16
    if shape == "oval":
        return np.stack([1.1 * np.cos(at), 0.6 * np.sin(at)], 1)
    if shape == "diamond":
        return regular(4) * (0.7, 1.15)
    return regular(
        {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6}[shape], -45 if shape == "square" else -90
    )


def _arrow(angle: float, length: float, both: bool) -> np.ndarray:
    """Corners of an arrow about the origin, in canvas widths; 0 degrees points right, 90 up."""
    w, head, wide = 0.055, 0.17, 0.15
    right = [
        (length - head, -w),
        (length - head, -wide),
        (length, 0),
        (length - head, wide),
        (length - head, w),
    ]
    left = [(-x, -y) for x, y in right] if both else [(-length, w), (-length, -w)]
    a = math.radians(angle)
    return np.array([*right, *left]) @ np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])


def _polygons(outlines: list[np.ndarray], shift: np.ndarray) -> Image.Image:
    mask = Image.new("L", (CANVAS, CANVAS))
    for points in outlines:
        places = ((points + 0.5 + shift) * CANVAS).tolist()
        ImageDraw.Draw(mask).polygon([tuple(p) for p in places], fill=255)
    return mask


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{FONTS[name]}.ttf"), size)


def _glyph(scene: Scene, rng: np.random.Generator, tilt: float) -> Image.Image:
    """A letter or digit; written ones are bent, thickened or thinned and reduced to 8 pixels."""
    mask = Image.new("L", (CANVAS, CANVAS))
    text = scene.glyph.upper() if rng.random() < 0.5 else scene.glyph
    size = int(rng.integers(44, 58))
    thick = int(rng.integers(0, 4)) if scene.written else 0
    ImageDraw.Draw(mask).text(
        (CANVAS / 2, CANVAS / 2), text, 255, _font(scene.font, size), anchor="mm", stroke_width=thick
    )
    box = mask.getbbox() or (0, 0, CANVAS, CANVAS)
    shear = rng.normal(0, 0.16) if scene.written else 0.0
    stretch = rng.uniform(0.75, 1.3) if scene.written else 1.0
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    scale = (box[3] - box[1]) / (
        CANVAS * (rng.uniform(0.78, 1.0) if scene.written else rng.uniform(0.55, 0.85))
    )
    a = math.radians(tilt)
    cos, sin = math.cos(a) * scale, math.sin(a) * scale
    matrix = (
        cos * stretch, sin + shear * scale, cx - (cos * stretch + sin + shear * scale) * CANVAS / 2,
        -sin * stretch, cos, cy - (-sin * stretch + cos) * CANVAS / 2,
    )  # fmt: skip
    mask = mask.transform((CANVAS, CANVAS), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    if not scene.written:
        return mask
    mask = _bend(mask, rng)
    if rng.random() < 0.6:
        few = int(rng.choice([8, 10, 12, 14, 16]))
        mask = mask.resize((few, few), Image.Resampling.BOX)
        mask = Image.eval(mask, lambda v: min(255, round(v * 1.25)))
        mask = mask.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    return mask


def _bend(mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A smooth random displacement, as a hand's."""
    n, step = 3, CANVAS / 3
    corners = rng.normal(0, 2.6, (n + 1, n + 1, 2)) + np.stack(
        np.meshgrid(*[np.arange(n + 1) * step] * 2), -1
    )
    mesh = []
    for i in range(n):
        for j in range(n):
            target = tuple(round(v) for v in (j * step, i * step, (j + 1) * step, (i + 1) * step))
            quad = [corners[i, j], corners[i + 1, j], corners[i + 1, j + 1], corners[i, j + 1]]
            mesh.append((target, tuple(float(v) for point in quad for v in point)))
    return mask.transform((CANVAS, CANVAS), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


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


def picture(seed: int, index: int) -> tuple[Image.Image, str]:
    """Picture and caption number ``index`` of the world with a seed, as the backbone is trained on."""
    rng = np.random.default_rng([seed, index])
    scene = random_scene(rng)
    style = Style(noise=0.3, blur=0.3, tilt=0.5, hue=0.15, clutter=0.3)
    if scene.written and rng.random() < 0.7:  # light on dark, as scans often are
        scene, style = replace(scene, colour="white", ground="black"), replace(style, hue=0.02, clutter=0.0)
    drawn = draw(scene, rng, style)
    if rng.random() < 0.15:
        drawn = drawn.convert("L").convert("RGB")
        scene = scene if scene.colour in ("black", "white") else replace(scene, colour="gray")
    return drawn, caption(scene, rng)
