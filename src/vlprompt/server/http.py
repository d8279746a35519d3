"""The HTTP interface of ``vlprompt serve``: endpoints, and errors in one line of JSON."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from torch import Tensor

import vlprompt
from vlprompt.errors import printable
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.server.answers import BODY, PROBLEMS, Answer, Classes, Health
from vlprompt.server.batching import Batcher, QueueFullError
from vlprompt.server.deadlines import Deadlines
from vlprompt.server.uploads import Limits, RefusedError, Upload, decode, read_uploads

DECODERS = min(os.cpu_count() or 1, 4)
"""Threads that decode; each may hold an image of the most pixels, several times over."""
LAST_ANSWERS = 3.0
"""Seconds in which a server that is stopped still answers."""


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


class Service:
    """A classifier, its queue, and the threads that decode for it; each endpoint is a method."""

    def __init__(self, classifier: PromptClassifier, limits: Limits):
        self.classifier, self.limits = classifier, limits
        self.predictor = Predictor(classifier, limits.max_pixels)
        self.batcher: Batcher[Tensor, np.ndarray] = Batcher(
            self.predictor.probabilities, limits.max_batch, limits.wait, limits.places
        )
        self.decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self.bodies = Deadlines(limits.bodies, limits.body_time, limits.idle_time)
        self.answers = Deadlines(limits.places, limits.answer_time)

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """From the server's start to its end."""
        self.batcher.start()
        yield
        await self.batcher.stop()
        self.decoders.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Wait for no more bodies, and for answers only as long as one who stops a server would."""
        self.bodies.stop(0)
        self.answers.stop(LAST_ANSWERS)

    async def predict(
        self,
        request: Request,
        top: Annotated[int, Query(ge=1, description="classes for each image")] = 5,
    ) -> JSONResponse:
        """Classify images: the files of a form, or one image as the body."""
        with _refusing(408, "the body did not come in time: send it faster"):
            async with self.bodies.begin() as body:
                uploads = await read_uploads(request, self.limits, lambda: self.bodies.goes_on(body))
        with (
            self.batcher.places(len(uploads)),
            _refusing(503, "the server is too busy: try again later"),
        ):
            async with self.answers.begin():
                rows = await self._probabilities(uploads)
        images = [
            {"file": upload.name, "predictions": _ranked(row, self.classifier.classnames_, top)}
            for upload, row in zip(uploads, rows, strict=True)
        ]
        return JSONResponse({"images": images})

    async def _probabilities(self, uploads: Sequence[Upload]) -> list[np.ndarray]:
        """Probabilities (K,) of each upload."""
        loop = asyncio.get_running_loop()
        prepared = [loop.run_in_executor(self.decoders, self.predictor.prepare, u) for u in uploads]
        return await self.batcher.submit(await asyncio.gather(*prepared))

    async def health(self, response: Response) -> Health:
        """Whether the server is ready, what it serves and what it has served."""
        response.status_code = 200 if self.batcher.running else 503
        return Health(
            ready=self.batcher.running,
            method=self.classifier.method,
            backbone=self.classifier.method_.encoder.backbone.name,
            classes=len(self.classifier.classnames_),
            version=vlprompt.__version__,
            images=self.batcher.counts.items,
            mean_batch=round(self.batcher.counts.mean_batch, 3),
        )

    async def classes(self) -> Classes:
        """The class names."""
        return Classes(classes=list(self.classifier.classnames_))


def make_api(classifier: PromptClassifier, limits: Limits | None = None) -> FastAPI:
    """The ASGI application that serves a classifier."""
    service = Service(classifier, limits or Limits())
    api = FastAPIOffline(
        redoc_url=None,
        title="vlprompt",
        version=vlprompt.__version__,
        summary=f"{classifier.method_.title}, {len(classifier.classnames_)} classes",
        lifespan=service.running,
    )
    api.state.stop = service.stop
    _answer_errors_in_json(api)
    api.post("/predict", openapi_extra=BODY, response_model=Answer, responses=PROBLEMS)(service.predict)
    api.get("/health", responses={503: {"model": Health, "description": "Not ready"}})(service.health)
    api.get("/classes")(service.classes)
    # The page on which to try it.
    api.get("/", include_in_schema=False)(lambda: RedirectResponse("docs"))
    return api


@contextmanager
def _refusing(status: int, message: str) -> Iterator[None]:
    """What is given up becomes an answer."""
    try:
        yield
    except TimeoutError as error:
        raise RefusedError(status, message) from error


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
        return problem(422, f"{first['loc'][-1]} '{printable(str(first['input'])[:200])}': {first['msg']}")

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        path = printable(request.url.path[:200])
        return problem(error.status_code, f"{request.method} {path}: {error.detail}, see /docs")

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return problem(400, "the client went away")

    @api.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "the server failed, its log says why: report it")
