"""Opening and decoding images, whatever they come as."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from vlprompt.data.dataset import ImageSource, Rendered
from vlprompt.errors import UserError
from vlprompt.progress import track

log = logging.getLogger("vlprompt")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 1 << 28
"""Larger images are refused: decoding them would exhaust the memory."""


def open_image(source: ImageSource) -> Image.Image:
    """Any image as RGB, upright.

    Takes a path, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or
    floats from 0 to 1, or anything with ``open()``. The first frame of an animation; 16-bit
    greyscale is scaled to 8 bits; transparency is laid on white.

    Raises:
        UserError: it cannot be read as an image.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source))
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    if isinstance(source, Rendered):
        return to_rgb(source.open())
    raise UserError(f"{type(source).__name__} is not an image: give a path, a PIL image or an array")


def _from_file(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UserError(f"image '{path}' has {opened.width} x {opened.height} pixels: reduce it")
            opened.load()
            return to_rgb(opened)
    except FileNotFoundError as error:
        raise UserError(f"image '{path}' does not exist: check the path") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image '{path}' cannot be read ({_reason(path, error)}): replace or remove it"
        ) from error


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and not path.stat().st_size:
        return "the file is empty"
    return "it is no image" if isinstance(error, Image.UnidentifiedImageError) else str(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, 8 bits, three channels, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        pixels = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" and pixels.max(initial=0) > 255 else 255.0
        if image.mode == "F" and pixels.max(initial=0) <= 1:
            top = 1.0
        image = Image.fromarray((pixels / top * 255).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    pixels = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)) or not pixels.size:
        raise UserError(
            f"an array of shape {array.shape} is not an image: give (H, W), (H, W, 3) or (H, W, 4)"
        )
    if pixels.dtype == np.uint16:
        pixels = (pixels / 257.0).round()
    elif pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise UserError("an array of floats is an image only with values from 0 to 1: scale it")
        pixels = (pixels * 255).round()
    elif pixels.dtype == np.bool_:
        pixels = pixels * 255
    elif pixels.dtype != np.uint8:
        raise UserError(f"an array of {pixels.dtype} is not an image: give uint8, uint16, bool or floats")
    return Image.fromarray(pixels.astype(np.uint8))


def load_images(sources: Sequence[ImageSource], side: int, progress: bool = False) -> list[Tensor]:
    """Decoded images (3, H, W), uint8; where the shorter side is longer than ``side`` it is reduced to it.

    Decoding runs in parallel.
    """

    def load(source: ImageSource) -> Tensor:
        image = open_image(source)
        short = min(image.size)
        if short > side:
            size = tuple(max(side, round(edge * side / short)) for edge in image.size)
            image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)

    with ThreadPoolExecutor(cpu_count()) as workers:
        return list(track(workers.map(load, sources), "decode", len(sources), progress))


def readable(paths: Sequence[Path], progress: bool = False) -> list[Path]:
    """The paths that can be read as images; the others are named in a warning."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False

    def check(path: Path) -> str | None:
        try:
            _from_file(path)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(cpu_count()) as workers:
        problems = list(track(workers.map(check, paths), "check images", len(paths), progress))
    for problem in filter(None, problems):
        log.warning("skipped: %s", problem)
    return [path for path, problem in zip(paths, problems, strict=True) if problem is None]


def is_image(path: Path) -> bool:
    """By its name: a known suffix, not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
