"""CLIP-Adapter (arXiv 2110.04544): a bottleneck on the image feature, no prompts; a reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vlprompt.methods import base
from vlprompt.methods.adapters import adapted, feature_adapter
from vlprompt.methods.base import Method
from vlprompt.typed import Epochs, Rate, Share


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """CLIP-Adapter."""

    lr: Rate = 1e-5
    """learning rate"""
    epochs: Epochs = 200
    """passes over the training images; the release names none, this is CoOp's number"""
    ratio: Share = 0.2
    """share of the adapter in the image feature; the paper chooses it for each data set"""


class CLIPAdapter(Method):
    """CLIP-Adapter: f* = ratio * A(f) + (1 - ratio) * f, class features stay hand-crafted (eq. 6)."""

    name, title, paper, year = "clip_adapter", "CLIP-Adapter", "2110.04544", 2021
    learns = "an adapter on the image feature"
    Settings = Settings

    def build(self) -> None:
        """The adapter E -> E / 4 -> E."""
        self.adapter = feature_adapter(self.encoder)

    def image_features(self, images: Tensor, below: Callable[[int], Tensor] | None = None) -> Tensor:
        """Adapted features (B, E)."""
        return adapted(super().image_features(images, below), self.adapter, self.settings.ratio)
