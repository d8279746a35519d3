"""From images to pixels: what the backbone's processor does, and the augmentation of the field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlprompt.data.images import in_parallel, open_image
from vlprompt.dataset import ImageSource


@dataclass(frozen=True)
class ImageStats:
    """What a processor of ``transformers`` makes of an image: side, and mean and deviation a channel."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def image_stats(processor: Any) -> ImageStats:
    """Side, mean and deviation of a processor's output."""
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    side = crop.get("height") or crop.get("shortest_edge")
    return ImageStats(int(side), tuple(processor.image_mean), tuple(processor.image_std))


class EvalTransform:
    """Images as the backbone's own processor prepares them (resize, centre crop, normalise)."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, sources: Sequence[ImageSource]) -> Tensor:
        """Images -> (B, 3, s, s), in parallel."""
        return torch.cat(in_parallel(self._prepare, sources))

    def _prepare(self, source: ImageSource) -> Tensor:
        return self.processor(images=open_image(source), return_tensors="pt")["pixel_values"]


Augmentation = Literal["crop+flip", "crop", "gentle"]
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Share of the area and aspect ratio of a random crop."""
Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""


def random_box(
    width: int, height: int, generator: torch.Generator | None = None, smallest: float = SCALE[0]
) -> Box:
    """A crop as torchvision's ``RandomResizedCrop`` draws it, from this generator or torch's own.

    The area is uniform from ``smallest`` to all, the log of the aspect ratio in that of ``RATIO``; ten tries,
    then the largest centred crop within the ratios.
    """
    low, high = map(math.log, RATIO)
    for _ in range(10):
        area = width * height * torch.empty(1).uniform_(smallest, SCALE[1], generator=generator).item()
        ratio = math.exp(torch.empty(1).uniform_(low, high, generator=generator).item())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (1,), generator=generator))
            left = int(torch.randint(width - w + 1, (1,), generator=generator))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized(image: Tensor, box: Box, mirrored: bool, size: int) -> np.ndarray:
    """A crop of a uint8 image (3, H, W), resized by Pillow with antialiasing, (size, size, 3)."""
    left, top, right, bottom = box
    crop = Image.fromarray(image[:, top:bottom, left:right].permute(1, 2, 0).contiguous().numpy())
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
    return pixels[:, ::-1] if mirrored else pixels


def _affine() -> Any:
    """A small movement, by kornia, which only this imports."""
    import kornia.augmentation as K

    return K.RandomAffine(8.0, (0.08, 0.08), (0.9, 1.1), 6.0, p=1.0, padding_mode="border")


class TrainTransform:
    """Augmentation and normalisation, drawn from torch's generator.

    Args:
        size: side of the output.
        augment: ``crop+flip`` is the field's: a random resized crop of 0.08 to 1 of the area, half of
            them mirrored; ``crop`` is without the mirror; ``gentle`` moves, turns and stretches the
            whole picture a little, for pictures so small or of such classes that a crop loses them.
        smallest: smallest share of the area of a crop, where it is another than the field's.
    """

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation = "crop+flip",
        smallest: float = SCALE[0],
    ):
        self.size, self.augment, self.smallest = size, augment, smallest
        self.affine: Any = _affine() if augment == "gentle" else None
        self.mean, self.std = (torch.tensor(x).view(1, 3, 1, 1) for x in (mean, std))

    def __call__(
        self, images: Sequence[Tensor], seeds: Sequence[int] = (), part: slice = slice(None)
    ) -> Tensor:
        """uint8 images (3, H, W) of any sizes -> (B, 3, size, size); drawn in order, made in parallel.

        Args:
            seeds: one an image, which decides alone what is drawn for it; otherwise torch's generator does.
            part: of the images; what is drawn for it is the same as if all were wanted.
        """
        each: Sequence[int | None] = seeds or [None] * len(images)
        drawn = []
        for image, seed in zip(images, each, strict=True):
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            height, width = image.shape[1:]
            box = (0, 0, width, height)
            if self.augment != "gentle":
                box = random_box(width, height, generator, self.smallest)
            mirrored = self.augment == "crop+flip" and bool(torch.rand(1, generator=generator) < 0.5)
            drawn.append((image, box, mirrored))
        made = in_parallel(lambda one: resized(*one, self.size), drawn if self.affine else drawn[part])
        pixels = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255  # (B, 3, s, s)
        if self.affine is not None:
            pixels = self._moved(pixels, seeds).clamp(0, 1)[part]
        return (pixels - self.mean) / self.std

    def _moved(self, pixels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Pictures (B, 3, s, s) a little moved; kornia draws from torch's own generator."""
        if not seeds:
            return self.affine(pixels)
        with torch.random.fork_rng([]):
            return torch.cat([self._seeded(seed, one) for seed, one in zip(seeds, pixels, strict=True)])

    def _seeded(self, seed: int, image: Tensor) -> Tensor:
        torch.default_generator.manual_seed(seed)
        return self.affine(image[None])
