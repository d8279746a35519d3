"""What a request uploads: what one may send, reading it, and the pictures in it.

A request goes through four gates, each of which refuses before the next spends anything: the size of the
body while it streams in, and how long it stands still; free places in the queue; the pixels of each image
by its header; and the time until the answer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vlprompt.data import images
from vlprompt.errors import printable

IN_MEMORY = 1 << 20
"""Longer uploads wait in a temporary file."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may use."""

    max_batch: int = 32
    wait: float = 0.005
    """seconds that an image waits for others"""
    max_body: int = 32_000_000
    max_images: int = 32
    max_pixels: int = 50_000_000
    bodies: int = 256
    """bodies that may be coming in at once"""
    body_time: float = 30
    """seconds in which a request's body must have come"""
    idle_time: float = 10
    """seconds in which more of it must come"""
    answer_time: float = 60
    """seconds in which it must be answered after that"""

    @property
    def places(self) -> int:
        """Images that may be waiting: eight full batches, and at least one full request."""
        return max(8 * self.max_batch, self.max_images)


class RefusedError(Exception):
    """An answer other than 200: status and one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Upload(NamedTuple):
    """One image as it was sent."""

    name: str
    file: BinaryIO


async def read_uploads(request: Request, limits: Limits, came: Callable[[], None]) -> list[Upload]:
    """The images of a request: the files of a form, or the body itself.

    Args:
        came: called whenever a part of it has come.

    Raises:
        RefusedError: too large, too many, none, or not a form.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed when it is dropped)
        async for chunk in _chunks(request, limits.max_body, came):
            file.write(chunk)
        uploads = [Upload("body", file)]  # type: ignore[arg-type]
    else:
        parser = MultiPartParser(
            request.headers,
            _chunks(request, limits.max_body, came),
            max_files=limits.max_images,
            max_fields=16,
            max_part_size=1024,
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise RefusedError(422, f"the form cannot be read: {error.message}") from error
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        uploads = [Upload(printable((file.filename or "unnamed")[:200]), file.file) for file in files]
    for name, content in uploads:
        if not content.seek(0, os.SEEK_END):
            raise RefusedError(422, f"image '{name}' is empty: send an image file")
        content.seek(0)
    if not uploads:
        raise RefusedError(422, "no file in the form: send one or more image files")
    return uploads


async def _chunks(request: Request, max_body: int, came: Callable[[], None]) -> AsyncGenerator[bytes, None]:
    """The body as it comes, counted: Content-Length may be missing or wrong."""
    too_large = RefusedError(
        413, f"the body is larger than {max_body / 1e6:g} MB: send fewer or smaller images"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_body:
        raise too_large
    size = 0
    async for chunk in request.stream():
        came()
        size += len(chunk)
        if size > max_body:
            raise too_large
        yield chunk


def decode(upload: Upload, max_pixels: int) -> Image.Image:
    """An upload as an RGB image; its size is checked by its header, before it is decoded.

    Raises:
        RefusedError: it is not an image, is damaged, or has too many pixels.
    """
    try:
        return images.decode(upload.file, max_pixels)
    except Image.DecompressionBombError as error:
        raise RefusedError(422, f"image '{upload.name}' is too large ({error}): reduce it") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        known = isinstance(error, OSError) and not isinstance(error, Image.UnidentifiedImageError)
        reason = str(error).splitlines()[0] if known and str(error) else "it is no such image"
        raise RefusedError(
            422, f"image '{upload.name}' cannot be read ({reason}): send one of {', '.join(images.FORMATS)}"
        ) from error
