"""Linear probe: logistic regression on frozen image features; the reference beside prompt learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.base import Batch, Losses, Method, Objective


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """Linear probe."""

    epochs: int = 1
    """calls of the optimiser, each up to max_iterations steps of L-BFGS over all images"""
    batch_size: int = 1 << 30
    """all images at once"""
    max_iterations: int = 500
    """largest number of L-BFGS steps"""
    l2: float = 1e-3
    """weight of the squared weights, relative to the mean cross-entropy"""
    scale: float = 10.0
    """length of the image features, which come in with length 1"""


class LinearProbe(Method):
    """Linear probe on CLIP's image features (arXiv 2103.00020, section 3.2); names play no part."""

    name = "linear"
    title = "Linear probe"
    paper = "2103.00020"
    year = 2021
    learns = "a linear classifier on image features"
    Settings = Settings

    def build(self) -> None:
        """Weights (K, E) and biases (K,), zero."""
        self.weight = nn.Parameter(torch.zeros(len(self.classnames), self.encoder.backbone.joint_width))
        self.bias = nn.Parameter(torch.zeros(len(self.classnames)))
        self.to(self.encoder.backbone.device)

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Only as many classes as were trained."""
        if len(classnames) != len(self.bias):
            raise UserError(
                f"a linear probe for {len(self.bias)} classes cannot serve {len(classnames)} others: "
                "use a method that learns prompts"
            )
        super().set_classes(classnames)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.settings.scale * self.image_features(images) @ self.weight.T + self.bias

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy with a penalty on the weights."""
        return {"loss": super().loss(batch)["loss"] + self.settings.l2 * self.weight.square().sum()}
