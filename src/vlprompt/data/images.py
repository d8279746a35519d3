"""Opening and decoding images, whatever they come as."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vlprompt.data.cache import DecodedCache, cache_folder
from vlprompt.dataset import ImageSource, Rendered
from vlprompt.errors import UserError
from vlprompt.progress import track
from vlprompt.reading import check_regular

log = logging.getLogger("vlprompt")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""No others: some decoders of Pillow start programs."""
MOST_PIXELS = 178_000_000
LONGEST = 100
"""How many times as long as wide an image may be: the backbone's resize makes its short side as long as it
needs, and the other in proportion."""
T = TypeVar("T")
R = TypeVar("R")


def open_image(source: ImageSource) -> Image.Image:
    """Any image as RGB, upright.

    Takes a path, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or
    floats from 0 to 1, or anything with ``open()``. The first frame of an animation; 16-bit
    greyscale is scaled to 8 bits; transparency is laid on white.

    Raises:
        UserError: it cannot be read as an image.
    """
    if isinstance(source, str | Path):
        return read_image(Path(source), f"image '{source}'")
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Rendered):
        source = source.open()
    if not isinstance(source, Image.Image):
        raise UserError(f"{type(source).__name__} is not an image: give a path, a PIL image or an array")
    try:
        check_size(source)
        return to_rgb(source)
    except Exception as error:  # decoders raise whatever a damaged image leads them to
        raise UserError(
            f"a PIL image of mode {source.mode} cannot be read ({error}): convert it to RGB"
        ) from error


def read_image(file: Path | BinaryIO, what: str) -> Image.Image:
    """An image file as RGB, upright; ``what`` names it in errors.

    Raises:
        UserError: it does not exist or cannot be read.
    """
    try:
        if isinstance(file, Path):
            check_regular(file)
        return decode(file)
    except FileNotFoundError as error:
        raise UserError(f"{what} does not exist: check the path") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise UserError(f"{what} cannot be read ({_reason(file, error)}): replace or remove it") from error


def decode(file: Path | BinaryIO, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """An image file as RGB, upright; its size is checked by its header, before it is decoded.

    Raises:
        Image.DecompressionBombError: it has too many pixels, or would have after the backbone's resize.
        Exception: whatever Pillow raises for what is no image, or a damaged one.
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:  # Pillow has a limit of its own, too
        raise _too_many(most_pixels) from error
    with image as opened:
        check_size(opened, most_pixels)
        return to_rgb(opened)


def check_size(image: Image.Image, most_pixels: int = MOST_PIXELS) -> None:
    """Refuse an image that takes too much memory, itself or when its short side is scaled up."""
    short, long = sorted(image.size)
    if short * long > most_pixels:
        raise _too_many(most_pixels)
    if long > LONGEST * max(short, 1):
        raise Image.DecompressionBombError(f"it is more than {LONGEST} times as long as wide")


def _too_many(most_pixels: int) -> Image.DecompressionBombError:
    return Image.DecompressionBombError(f"it has more than {most_pixels / 1e6:g} megapixels")


def _reason(file: Path | BinaryIO, error: Exception) -> str:
    if reason := getattr(error, "strerror", None):
        return reason
    if isinstance(error, Image.UnidentifiedImageError):
        empty = isinstance(file, Path) and not file.stat().st_size
        return "the file is empty" if empty else f"it is no image of {', '.join(FORMATS)}"
    return str(error) or repr(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, 8 bits, three channels, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits, of 32 bits (holding 8 or 16) or of floats (up to 1 or 255) in 8 bits.

    A few rows at a time: the numbers in between take eight times the memory of the image.
    """
    pixels = np.asarray(image)
    highest = pixels.max(initial=0)
    if image.mode == "F":
        top = 1.0 if highest <= 1 else 255.0
    else:
        top = 255.0 if image.mode == "I" and highest <= 255 else 65535.0
    scaled = np.empty(pixels.shape, np.uint8)
    for rows in range(0, len(pixels), 64):
        some = pixels[rows : rows + 64].astype(np.float64)
        scaled[rows : rows + 64] = (some / top * 255).round().clip(0, 255)
    return Image.fromarray(scaled)


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

    Decoding runs in parallel, and the pixels of files are kept on disk (see ``cache.py``).
    """
    return image_loader(side)(sources, progress)


def image_loader(side: int) -> Callable[..., list[Tensor]]:
    """:func:`load_images` for some images after others, with one cache for all."""
    folder = cache_folder()
    cache = DecodedCache(folder) if folder else None

    def load(source: ImageSource) -> Tensor:
        if cache is None or not isinstance(source, str | Path) or not Path(source).is_file():
            pixels = _reduced(source, side)
        else:
            entry = cache.entry(Path(source), side)
            kept = cache.get(entry)
            pixels = _reduced(source, side) if kept is None else kept
            if kept is None:
                cache.put(entry, pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def load_all(sources: Sequence[ImageSource], progress: bool = False) -> list[Tensor]:
        loaded = in_parallel(load, sources, "decode", progress)
        if cache is not None:
            cache.trim()
        return loaded

    return load_all


def _reduced(source: ImageSource, side: int) -> np.ndarray:
    """Pixels (H, W, 3) of an image whose shorter side is at most ``side``."""
    image = open_image(source)
    short = min(image.size)
    if short > side:
        width, height = (max(side, round(edge * side / short)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(image)


def readable(paths: Sequence[Path], progress: bool = False) -> list[Path]:
    """The paths that can be read as images; the others are named in a warning."""

    def check(path: Path) -> str | None:
        try:
            open_image(path)
        except UserError as error:
            return str(error)
        return None

    problems = in_parallel(check, paths, "check images", progress)
    for problem in filter(None, problems):
        log.warning("skipped: %s", problem)
    return [path for path, problem in zip(paths, problems, strict=True) if problem is None]


def in_parallel(work: Callable[[T], R], items: Sequence[T], what: str = "", show: bool = False) -> list[R]:
    """``work`` of every item, in order, on all cores (decoding does not hold Python's lock)."""
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return list(track(workers.map(work, items), what, len(items), show))


def images_below(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, sorted.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"'{error.filename}' cannot be read: change its permissions") from error

    walk = os.walk(folder, onerror=refuse)
    found = [Path(where, name) for where, folders, names in walk for name in (*folders, *names)]
    return sorted(filter(is_image, found))


def is_image(path: Path) -> bool:
    """By its name: a known suffix, not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
