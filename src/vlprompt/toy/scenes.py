"""What the toy world's pictures show, drawn at random, and how it is said in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

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
LETTERS = "abcdefghijklmnopqrstuvwxyz"
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
        return replace(scene, glyph=LETTERS[rng.integers(26)])
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
