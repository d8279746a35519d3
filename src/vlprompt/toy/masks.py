"""Where a picture of the toy world has ink: shapes, arrows and glyphs."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlprompt.toy.scenes import ANGLES, FONTS, SIZES, SPOTS, Scene

CANVAS = 64
"""Pictures are drawn at this side."""


def ink_mask(scene: Scene, rng: np.random.Generator, tilt: float) -> Image.Image:
    """Where the ink is: (CANVAS, CANVAS), greyscale.

    Args:
        tilt: 0 to 1, how far from upright things may stand.
    """
    degrees = float(rng.normal() * 25 * tilt)
    radius = SIZES[scene.size] * CANVAS * float(rng.uniform(0.9, 1.1))
    jitter = rng.uniform(-0.05, 0.05, (10, 2))
    if scene.kind == "glyph":
        return _glyph(scene, rng, degrees)
    if scene.kind == "arrow":
        angle = {"left and right": 0, "up and down": 90}.get(scene.direction)
        both = angle is not None
        angle = ANGLES[scene.direction] if angle is None else angle
        return _polygons([_arrow(angle + degrees * 0.4, float(rng.uniform(0.3, 0.42)), both)], jitter[0])
    if scene.kind == "place":
        spots = {
            "left and right": ("left", "right"),
            "top and bottom": ("top", "bottom"),
            "all corners": ("top left", "top right", "bottom left", "bottom right"),
        }.get(scene.position, (scene.position,))
        places = [np.array(SPOTS[s]) + j for s, j in zip(spots, jitter, strict=False)]
        return _stamp(scene.shape, places, CANVAS * float(rng.uniform(0.1, 0.16)), degrees)
    if scene.kind == "count":
        cells = [(x, y) for x in (0.18, 0.5, 0.82) for y in (0.14, 0.38, 0.62, 0.86)]
        chosen = rng.permutation(len(cells))[: scene.number]
        places = [np.array(cells[i]) + j * 0.7 for i, j in zip(chosen, jitter, strict=False)]
        return _stamp(scene.shape, places, CANVAS * 0.095, degrees)
    centre = np.array((0.5, 0.5)) + jitter[0] * 1.6
    return _stamp(scene.shape, [centre], radius, degrees)


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
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "fonts" / "ttf"
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
