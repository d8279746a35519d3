"""A fitted classifier as a teacher: its class features, and its answers to images that have no labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.data.transforms import image_stats
from vlprompt.dataset import Dataset, ImageSource, Item
from vlprompt.engine.backbones.protocol import Backbone
from vlprompt.errors import UserError
from vlprompt.estimator import artifact, loading
from vlprompt.estimator.labels import image_list
from vlprompt.estimator.prediction import predict_logits


def unlabelled(images: Sequence[ImageSource], teacher: str | Path, name: str = "images") -> Dataset:
    """Images without labels as a data set of a teacher's classes.

    Raises:
        UserError: no such classifier; too few images.
    """
    names = tuple(artifact.read(Path(teacher))[1]["classnames"])
    items = [Item(image, 0) for image in image_list(images)]
    if len(items) < 2:
        raise UserError(f"'{name}' has {len(items)} images: give two or more, best some for every class")
    return Dataset(name, names, items)


class Teacher:
    """A fitted classifier that others learn from.

    Args:
        folder: of the classifier.
        classnames, templates: what it is asked about; by its own templates where the classes are its own.

    Raises:
        UserError: it cannot be loaded, or cannot classify into these classes.
    """

    def __init__(self, folder: str, classnames: Sequence[str], templates: Sequence[str], device: str):
        path = Path(folder)
        self.method = loading.load(path, device=device).method.requires_grad_(False)
        if self.method.classnames != tuple(classnames):
            try:
                self.method.transfer(classnames, templates)
            except UserError as error:
                raise UserError(f"teacher '{folder}' has other classes: {error}") from error
        parts = (path / artifact.PROMPTS).read_bytes(), (self.method.encoder.backbone.digest or "").encode()
        self.digest = hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    @torch.no_grad()
    def classes(self) -> Tensor:
        """Its class features (K, T)."""
        return self.method.predicting_features().float()

    def answers(
        self, images: Sequence[ImageSource], student: Backbone, fixed: bool, show: bool = False
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Positions (b,) and their pixels, as the student sees them -> logits (b, K).

        Args:
            fixed: pixels do not change, so every image is answered once, as the teacher's processor
                prepares it; otherwise each view is answered anew, as published.
        """
        if fixed:
            known = predict_logits(self.method, images, show).float().to(student.device)
            return lambda positions, _: known[positions.to(student.device)]
        own, theirs = (image_stats(b.processor) for b in (self.method.encoder.backbone, student))

        def normal(values: Sequence[float], like: Tensor) -> Tensor:
            return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, 3, 1, 1)

        @torch.no_grad()
        def answer(_: Tensor, pixels: Tensor) -> Tensor:
            plain = pixels * normal(theirs.std, pixels) + normal(theirs.mean, pixels)  # (b, 3, s, s)
            if own.size != theirs.size:
                side = (own.size, own.size)
                plain = F.interpolate(plain, side, mode="bicubic", antialias=True).clamp(0, 1)
            return predictor((plain - normal(own.mean, pixels)) / normal(own.std, pixels))

        with torch.no_grad():
            predictor = self.method.predictor()
        return answer
