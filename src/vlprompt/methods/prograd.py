"""ProGrad, Prompt-aligned Gradient (arXiv 2205.14865): never learn against zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.methods import coop
from vlprompt.methods.base import Batch, Losses, template_features
from vlprompt.methods.coop import CoOp


@dataclass(frozen=True, kw_only=True)
class Settings(coop.Settings):
    """ProGrad."""

    projection: float = 1.0
    """share of the conflicting part of the gradient that is removed"""
    temperature: float = 1.0
    """temperature of the distillation from zero-shot CLIP"""


class ProGrad(CoOp):
    """ProGrad: the cross-entropy gradient without its part against the distillation gradient (eq. 5)."""

    name = "prograd"
    title = "ProGrad"
    paper = "2205.14865"
    year = 2023
    learns = "text context"
    Settings = Settings

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Sequences and zero-shot features of the new classes."""
        super().set_classes(classnames)
        self.teacher = template_features(self.encoder, self.classnames, self.templates[:1])  # (K, E)

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy, and the distillation whose gradient gives the general direction."""
        image_features = self.image_features(batch.images)
        logits = self.logits(image_features, self.class_features())  # (B, K)
        ce = F.cross_entropy(logits, batch.labels)
        kl = soft_cross_entropy(logits, self.logits(image_features, self.teacher), self.settings.temperature)
        return {"loss": ce, "kl": kl}

    def backward(self, losses: Losses, backward: Callable[[Tensor], None]) -> None:
        """The aligned gradient."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        general = torch.autograd.grad(losses["kl"], parameters, retain_graph=True)
        backward(losses["loss"])
        for parameter, direction in zip(parameters, general, strict=True):
            assert parameter.grad is not None
            parameter.grad = align(parameter.grad, direction, self.settings.projection)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softened logits (B, K) against softened teacher logits, mean over the batch."""
    target = (teacher / temperature).softmax(-1)
    return -(target * (student / temperature).log_softmax(-1)).sum(-1).mean() * temperature**2


def align(gradient: Tensor, general: Tensor, share: float = 1.0) -> Tensor:
    """Remove from a gradient ``share`` of its part that points against the general direction."""
    direction = F.normalize(general.flatten(), dim=0).view_as(general)
    along = (gradient * direction).sum()
    return gradient - share * along.clamp(max=0) * direction
