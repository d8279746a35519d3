"""What the server's interface says of requests and answers, for OpenAPI and ``/docs``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


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
