"""Tip-Adapter and Tip-Adapter-F (arXiv 2111.03930): zero-shot CLIP beside a cache of the few images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.base import Method, Objective
from vlprompt.methods.templates import template_features
from vlprompt.typed import BatchSize, Epochs, Rate


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """Tip-Adapter."""

    lr: Rate = 0.001
    """learning rate of AdamW for the keys (Tip-Adapter-F)"""
    epochs: Epochs = 20
    """passes over the training images (Tip-Adapter-F)"""
    batch_size: BatchSize = 256
    """images a step (Tip-Adapter-F)"""
    finetune: bool = False
    """Tip-Adapter-F: train the keys"""
    alpha: float = 1.0
    """weight of the cache"""
    beta: float = 5.5
    """sharpness of the cache"""


class TipAdapter(Method):
    """Tip-Adapter: logits = zero-shot + alpha * exp(-beta (1 - f F^T)) L (eqs. 4 to 6)."""

    name, title, paper, year = "tip", "Tip-Adapter", "2111.03930", 2021
    learns = "nothing, or the keys of a cache of image features (Tip-Adapter-F)"
    Settings = Settings
    presets = {"f": {"finetune": True}}  # noqa: RUF012

    def build(self) -> None:
        """Keys F (N, E) and their labels (N,), empty until the images are seen."""
        backbone = self.encoder.backbone
        keys = torch.zeros(0, backbone.joint_width, device=backbone.device)
        self.keys = nn.Parameter(keys, self.settings.finetune)
        self.key_labels = nn.Parameter(torch.zeros(0, dtype=torch.long, device=backbone.device), False)

    def see(self, features: Tensor, labels: Tensor) -> None:
        """Keep the training images' features (N, E) and labels (N,)."""
        self.keys.data, self.key_labels.data = features.float(), labels

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Cached images of classes that stay keep their names; other classes are zero-shot."""
        before = self.classnames
        super().set_classes(classnames)
        if self.classnames != before:
            position = {name: i for i, name in enumerate(classnames)}
            old = self.key_labels.tolist()
            new = torch.tensor([position.get(before[i], -1) for i in old], dtype=torch.long)
            stays = (new >= 0).to(self.keys.device)
            self.keys.data = self.keys.data[stays]
            self.key_labels.data = new.to(self.keys.device)[stays]
        self.handcrafted = template_features(self.encoder, self.classnames, self.templates)  # (K, E)

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """The cached images, each of a class that is there."""
        super().load_parameters(tensors)
        labels = self.key_labels
        if len(labels) != len(self.keys) or not ((labels >= 0) & (labels < len(self.classnames))).all():
            raise UserError("the cached images do not fit the classes: the prompts were damaged")

    def class_features(self) -> Tensor:
        """Hand-crafted class features (K, E)."""
        return self.handcrafted

    def logits(self, image_features: Tensor, class_features: Tensor) -> Tensor:
        """Zero-shot logits plus what the cached images vote for: (B, E), (K, E) -> (B, K)."""
        votes = F.one_hot(self.key_labels, len(class_features)).to(image_features.dtype)  # (N, K)
        near = (-self.settings.beta * (1 - image_features @ self.keys.T)).exp()  # (B, N)
        return super().logits(image_features, class_features) + self.settings.alpha * near @ votes

    @property
    def trains(self) -> bool:
        """Tip-Adapter-F; the keys come with the images."""
        return self.settings.finetune

    def objectives(self) -> list[Objective]:
        """The keys by AdamW (Tip-Adapter-F), or nothing."""
        if not self.settings.finetune:
            return []
        return [Objective(self.loss, torch.optim.AdamW([self.keys], self.settings.lr, eps=1e-4))]
