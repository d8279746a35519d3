"""From images to pixels: what the backbone's processor does, and the augmentation of the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
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


def _steps(size: int, augment: Augmentation) -> list[Any]:
    """Steps of kornia, which only training imports."""
    import kornia.augmentation as K

    if augment == "gentle":
        affine = K.RandomAffine(8.0, (0.08, 0.08), (0.9, 1.1), 6.0, p=1.0, padding_mode="border")
        return [K.Resize((size, size), resample="BICUBIC"), affine]
    crop = K.RandomResizedCrop(
        (size, size), (0.08, 1.0), (3 / 4, 4 / 3), resample="BICUBIC", cropping_mode="slice"
    )
    return [crop, K.RandomHorizontalFlip(0.5)] if augment == "crop+flip" else [crop]


class TrainTransform:
    """Augmentation and normalisation, drawn from torch's generator.

    Args:
        size: side of the output.
        augment: ``crop+flip`` is the field's: a random resized crop of 0.08 to 1 of the area, half of
            them mirrored; ``crop`` is without the mirror; ``gentle`` moves, turns and stretches the
            whole picture a little, for pictures so small or of such classes that a crop loses them.
    """

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation = "crop+flip",
    ):
        from kornia.augmentation import AugmentationSequential

        self.augment = AugmentationSequential(*_steps(size, augment), same_on_batch=False)
        self.size = size
        self.mean, self.std = (torch.tensor(x).view(1, 3, 1, 1) for x in (mean, std))

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """uint8 images (3, H, W) of any sizes -> (B, 3, size, size); images of one size go together."""
        device = images[0].device
        out = torch.empty(len(images), 3, self.size, self.size, device=device)
        groups: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(image.shape, []).append(index)
        for members in groups.values():
            batch = torch.stack([images[i] for i in members]).float() / 255
            out[members] = self.augment(batch).clamp(0, 1)
        return (out - self.mean.to(device)) / self.std.to(device)
