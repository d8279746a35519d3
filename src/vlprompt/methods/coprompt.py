"""CoPrompt, Consistency-guided Prompt learning (arXiv 2306.01195): MaPLe that agrees with frozen CLIP.

Shapes: K classes, B images, T templates, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlprompt.methods import maple
from vlprompt.methods.adapters import adapted, feature_adapter
from vlprompt.methods.base import Batch, Losses, Method, Outputs
from vlprompt.methods.kgcoop import distance
from vlprompt.methods.maple import MaPLe
from vlprompt.methods.templates import template_features
from vlprompt.typed import Epochs, Share


@dataclass(frozen=True, kw_only=True)
class Added:
    """What consistency and adapters add to the settings of any prompts."""

    consistency: float = 8.0
    """weight of the distances to frozen CLIP; the released scripts run with 1 (preset ``released``)"""
    image_ratio: Share = 0.1
    """share of the adapter in the image feature"""
    text_ratio: Share = 0.2
    """share of the adapter in the class feature"""


class Consistency(Method):
    """Adapters on both features; frozen CLIP sees another view and another sentence (eqs. 3 and 4).

    The release has generated sentences for each class; here the data set's templates are the sentences.
    """

    Settings = Added

    def build(self) -> None:
        """Two adapters E -> E / 4 -> E."""
        super().build()
        self.adapter_image, self.adapter_text = (feature_adapter(self.encoder) for _ in range(2))

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Frozen features (T, K, E) of the new classes, in every template."""
        super().set_classes(classnames)
        each = [template_features(self.encoder, self.classnames, (t,)) for t in self.templates]
        self.sentence_features = torch.stack(each)

    def class_features(self) -> Tensor:
        """Adapted, (K, E)."""
        return adapted(super().class_features(), self.adapter_text, self.settings.text_ratio)

    def image_features(self, images: Tensor, below: Callable[[int], Tensor] | None = None) -> Tensor:
        """Adapted, (B, E)."""
        features = super().image_features(images, below)
        return adapted(features, self.adapter_image, self.settings.image_ratio)

    def terms(self, outputs: Outputs) -> Losses:
        """Distances to one template's class features, drawn at each step, and to another view's features."""
        weight, drawn = self.settings.consistency, int(torch.randint(len(self.templates), ()))
        return super().terms(outputs) | {
            "text": weight * distance(outputs.classes, self.sentence_features[drawn]),
            "image": weight * distance(outputs.images, self.other_view(outputs.batch)),
        }

    def other_view(self, batch: Batch) -> Tensor:
        """Frozen features (B, E) of the images, augmented anew where they are augmented."""
        if batch.frozen is not None or batch.other is None:
            return self.frozen_images(batch)
        return self.frozen_images(Batch(batch.other(), batch.labels))


@dataclass(frozen=True, kw_only=True)
class Settings(Added, maple.Settings):
    """CoPrompt."""

    epochs: Epochs = 8
    """passes over the training images"""


class CoPrompt(Consistency, MaPLe):
    """CoPrompt: MaPLe's prompts, adapters, and consistency on both sides."""

    name, title, paper, year = "coprompt", "CoPrompt", "2306.01195", 2024
    learns = "MaPLe's prompts, and an adapter on each feature"
    Settings = Settings
    added = Consistency
    presets = {"released": {"consistency": 1.0}}  # noqa: RUF012
