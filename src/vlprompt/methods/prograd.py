"""ProGrad, Prompt-aligned Gradient (arXiv 2205.14865): never learn against zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from vlprompt.methods import coop
from vlprompt.methods.base import Losses, Method, Outputs
from vlprompt.methods.coop import CoOp
from vlprompt.methods.templates import template_features
from vlprompt.typed import Positive


@dataclass(frozen=True, kw_only=True)
class Added:
    """What the alignment of gradients adds to the settings of any prompts."""

    projection: float = 1.0
    """share of the conflicting part of the gradient that is removed"""
    temperature: Positive = 1.0
    """temperature of the distillation from zero-shot CLIP"""


class AlignedGradient(Method):
    """The gradient without its part against the distillation gradient (eq. 5)."""

    Settings = Added

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Zero-shot features of the new classes."""
        super().set_classes(classnames)
        self.general_features = template_features(  # (K, E)
            self.encoder, self.classnames, self.templates[:1]
        )

    def terms(self, outputs: Outputs) -> Losses:
        """The distillation whose gradient gives the general direction; it is not minimised."""
        zeroshot = self.logits(self.frozen_images(outputs.batch), self.general_features)  # (B, K)
        general = soft_cross_entropy(outputs.logits, zeroshot, self.settings.temperature)
        return super().terms(outputs) | {"general": general}

    def total(self, terms: Losses) -> Tensor:
        """All terms but the general direction."""
        return super().total({name: value for name, value in terms.items() if name != "general"})

    def backward(self, losses: Losses, backward: Callable[..., None]) -> None:
        """The aligned gradient, each parameter's on its own."""
        parameters = [p for p in self.parameters() if p.requires_grad and p.numel()]
        backward(losses["general"], retain_graph=True)
        general = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        backward(losses["loss"])
        for parameter, direction in zip(parameters, general, strict=True):
            if parameter.grad is not None and direction is not None:
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


@dataclass(frozen=True, kw_only=True)
class Settings(Added, coop.Settings):
    """ProGrad."""


class ProGrad(AlignedGradient, CoOp):
    """ProGrad: CoOp with the aligned gradient."""

    name, title, paper, year = "prograd", "ProGrad", "2205.14865", 2023
    learns = "text context"
    Settings = Settings
    added = AlignedGradient
