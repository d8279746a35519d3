"""The HTTP interface of ``vlprompt serve``: endpoints, limits, errors in one line of JSON.

A request goes through four gates, each of which refuses before the next spends anything: a free place
in the queue, the size of the body while it streams in, the pixels of each image by its header, and
the time until the answer.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from PIL import Image
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from torch import Tensor

import vlprompt
from vlprompt.data.images import to_rgb
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.server.batching import Batcher, QueueFullError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""No others: some decoders of Pillow start programs."""
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
    body_time: float = 30
    """seconds in which a request's body must have come"""
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


# What is answered.


class Prediction(BaseModel):
    """A class and its probability."""

    name: str = Field(alias="class")
    probability: float


class ImageAnswer(BaseModel):
    """The likeliest classes of one image, the likeliest first."""

    file: str
    predictions: list[Prediction]


class Answer(BaseModel):
    """One entry for each image, in the order in which they were sent."""

    images: list[ImageAnswer]


class Health(BaseModel):
    """How the server is."""

    ready: bool
    method: str
    backbone: str
    classes: int
    version: str
    images: int = Field(description="images served")
    mean_batch: float = Field(description="images that went through the model together, on average")


class Classes(BaseModel):
    """Class names in the classifier's order."""

    classes: list[str]


class Problem(BaseModel):
    """What was wrong, in one line."""

    error: str


IMAGES = {"type": "array", "items": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["images"], "properties": {"images": IMAGES}}
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    408: {"model": Problem, "description": "The body did not come in time"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "An image or a parameter is bad; none of the images is served"},
    503: {"model": Problem, "description": "Too many images are waiting: try again after Retry-After"},
}


# The model's side.


class Predictor:
    """A classifier whose class features are computed once, in the two steps that a server needs."""

    def __init__(self, classifier: PromptClassifier, max_pixels: int):
        backbone = classifier.method_.encoder.backbone
        self.device, self.dtype = backbone.device, backbone.dtype
        self.processor = backbone.processor
        self.max_pixels = max_pixels
        with torch.no_grad():
            self.logits = classifier.method_.predictor()
        self.probabilities([self._pixels(Image.new("RGB", (8, 8)))])  # the first call is the slowest

    def prepare(self, upload: Upload) -> Tensor:
        """An upload as pixels (3, s, s).

        Raises:
            RefusedError: it is not an image, is damaged, or has too many pixels.
        """
        return self._pixels(decode(upload, self.max_pixels))

    def _pixels(self, image: Image.Image) -> Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def probabilities(self, pixels: Sequence[Tensor]) -> list[np.ndarray]:
        """Pixels (3, s, s) of images -> probabilities (K,) of each."""
        batch = torch.stack(list(pixels)).to(self.device, self.dtype)
        return list(self.logits(batch).cpu().double().softmax(-1).numpy())


def decode(upload: Upload, max_pixels: int) -> Image.Image:
    """An upload as an RGB image; its size is checked by its header, before it is decoded.

    Raises:
        RefusedError: it is not an image, is damaged, or has too many pixels.
    """
    try:
        with Image.open(upload.file, formats=FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                raise Image.DecompressionBombError
            return to_rgb(opened)
    except Image.DecompressionBombError as error:  # Pillow has a limit of its own, too
        raise RefusedError(
            422, f"image '{upload.name}' has more than {max_pixels / 1e6:g} megapixels: reduce it"
        ) from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        known = isinstance(error, OSError) and not isinstance(error, Image.UnidentifiedImageError)
        reason = str(error).splitlines()[0] if known and str(error) else "it is no such image"
        raise RefusedError(
            422, f"image '{upload.name}' cannot be read ({reason}): send one of {', '.join(FORMATS)}"
        ) from error


# The network's side.


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The images of a request: the files of a form, or the body itself.

    Raises:
        RefusedError: too large, too many, none, or not a form.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed when it is dropped)
        async for chunk in _chunks(request, limits.max_body):
            file.write(chunk)
        uploads = [Upload("body", file)]  # type: ignore[arg-type]
    else:
        parser = MultiPartParser(
            request.headers,
            _chunks(request, limits.max_body),
            max_files=limits.max_images,
            max_fields=16,
            max_part_size=1024,
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise RefusedError(422, f"the form cannot be read: {error.message}") from error
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        uploads = [Upload(_printable(file.filename or "unnamed"), file.file) for file in files]
    for name, content in uploads:
        if not content.seek(0, os.SEEK_END):
            raise RefusedError(422, f"image '{name}' is empty: send an image file")
        content.seek(0)
    if not uploads:
        raise RefusedError(422, "no file in the form: send one or more image files")
    return uploads


async def _chunks(request: Request, max_body: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes, counted: Content-Length may be missing or wrong."""
    too_large = RefusedError(
        413, f"the body is larger than {max_body / 1e6:g} MB: send fewer or smaller images"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_body:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_body:
            raise too_large
        yield chunk


def _printable(name: str) -> str:
    """A file name of a client that is safe to print in one line."""
    return "".join(c if c.isprintable() else "?" for c in name)[:200]


@asynccontextmanager
async def _within(seconds: float, status: int, message: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RefusedError(status, message) from error


def make_api(classifier: PromptClassifier, limits: Limits | None = None) -> FastAPI:
    """The ASGI application that serves a classifier."""
    limits = limits or Limits()
    names = classifier.classnames_
    predictor = Predictor(classifier, limits.max_pixels)
    batcher: Batcher[Tensor, np.ndarray] = Batcher(
        predictor.probabilities, limits.max_batch, limits.wait, limits.places
    )
    decoders = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()
        decoders.shutdown(cancel_futures=True)

    api = FastAPIOffline(
        redoc_url=None,
        title="vlprompt",
        version=vlprompt.__version__,
        summary=f"{classifier.method_.title}, {len(names)} classes",
        lifespan=lifespan,
    )
    _answer_errors_in_json(api)

    async def answer(uploads: Sequence[Upload]) -> list[np.ndarray]:
        loop = asyncio.get_running_loop()
        prepared = [loop.run_in_executor(decoders, predictor.prepare, upload) for upload in uploads]
        return await batcher.submit(await asyncio.gather(*prepared))

    @api.post("/predict", openapi_extra=BODY, response_model=Answer, responses=PROBLEMS)
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="classes for each image")] = 5,
    ) -> JSONResponse:
        """Classify images: the files of a form, or one image as the body."""
        with batcher.places(1):
            async with _within(limits.body_time, 408, "the body did not come in time: send it faster"):
                uploads = await read_uploads(request, limits)
            with batcher.places(len(uploads) - 1):
                async with _within(limits.answer_time, 503, "the server is too busy: try again later"):
                    rows = await answer(uploads)
        images = [
            {"file": upload.name, "predictions": _ranked(row, names, top)}
            for upload, row in zip(uploads, rows, strict=True)
        ]
        return JSONResponse({"images": images})

    @api.get("/health", responses={503: {"model": Health, "description": "Not ready"}})
    async def health(response: Response) -> Health:
        """Whether the server is ready, what it serves and what it has served."""
        response.status_code = 200 if batcher.running else 503
        return Health(
            ready=batcher.running,
            method=classifier.method,
            backbone=classifier.method_.encoder.backbone.name,
            classes=len(names),
            version=vlprompt.__version__,
            images=batcher.counts.items,
            mean_batch=round(batcher.counts.mean_batch, 3),
        )

    @api.get("/classes")
    async def classes() -> Classes:
        """The class names."""
        return Classes(classes=list(names))

    @api.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        """The page on which to try it."""
        return RedirectResponse("docs")

    return api


def _ranked(row: np.ndarray, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The likeliest classes of one image."""
    order = np.argsort(-row, kind="stable")[:top]
    return [{"class": names[k], "probability": float(row[k])} for k in order]


def _answer_errors_in_json(api: FastAPI) -> None:
    """Every error of the server as ``{"error": one line}``."""

    def problem(status: int, message: str) -> JSONResponse:
        headers = {"Retry-After": "1"} if status == 503 else {}
        return JSONResponse({"error": message}, status, headers)

    @api.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return problem(error.status, error.message)

    @api.exception_handler(QueueFullError)
    async def full(_: Request, error: QueueFullError) -> JSONResponse:
        return problem(503, "too many images are waiting: try again later")

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return problem(422, f"{first['loc'][-1]} '{_printable(str(first['input']))}': {first['msg']}")

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        path = _printable(request.url.path)
        return problem(error.status_code, f"{request.method} {path}: {error.detail}, see /docs")

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return problem(400, "the client went away")

    @api.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "the server failed, its log says why: report it")
