"""PromptSRC, Self-regulating Prompts (arXiv 2307.06948): IVLP that agrees with frozen CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.methods import ivlp
from vlprompt.methods.base import Losses, Method, Outputs
from vlprompt.methods.ivlp import IVLP
from vlprompt.methods.losses import distillation
from vlprompt.methods.templates import template_features
from vlprompt.typed import Between, Epochs, Length, Rate


@dataclass(frozen=True, kw_only=True)
class Added:
    """What self-regulation adds to the settings of any prompts."""

    text_weight: float = 25.0
    """weight of the L1 distance between prompted and frozen class features"""
    image_weight: float = 10.0
    """weight of the L1 distance between prompted and frozen image features"""
    gpa_mean: float = 15.0
    """epoch that weighs most in the Gaussian weighted average of the prompts"""
    gpa_std: float = 1.0
    """standard deviation, in epochs, of that weight; 0 switches the average off"""


class SelfRegulation(Method):
    """Three consistency losses, and prompts averaged over the epochs (section 3.2)."""

    Settings = Added

    def build(self) -> None:
        """The running average of each parameter, beside it; what joins in front of this has none."""
        super().build()
        self.averaged = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        for index, name in enumerate(self.averaged):
            self.register_buffer(f"average_{index}", torch.zeros_like(self.get_parameter(name)))

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Frozen features of the new classes, the mean over the templates."""
        super().set_classes(classnames)
        self.frozen_classes = template_features(  # (K, E)
            self.encoder, self.classnames, self.templates, normalize_each=False
        )

    def terms(self, outputs: Outputs) -> Losses:
        """L1 in text + L1 in images + KL of the logits (eqs. 3 to 5)."""
        s, frozen = self.settings, self.frozen_images(outputs.batch)  # (B, E)
        return super().terms(outputs) | {
            "scl_text": s.text_weight * F.l1_loss(outputs.classes, self.frozen_classes),
            "scl_image": s.image_weight * F.l1_loss(outputs.images, frozen),
            "scl_logits": distillation(outputs.logits, self.logits(frozen, self.frozen_classes)),
        }

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Add this epoch's prompts to the average; after the last epoch the average takes their place."""
        super().after_epoch(epoch, epochs)
        if not self.settings.gpa_std:
            return
        weight = gaussian_weights(epochs, self.settings.gpa_mean, self.settings.gpa_std)[epoch].item()
        with torch.no_grad():
            for index, name in enumerate(self.averaged):
                average, parameter = self.get_buffer(f"average_{index}"), self.get_parameter(name)
                average += weight * parameter
                if epoch == epochs - 1:
                    parameter.copy_(average)


def gaussian_weights(epochs: int, mean: float, std: float) -> Tensor:
    """Weights (epochs,) of epochs 1 ... N under N(mean, std^2), adding up to 1 (section 3.2.2)."""
    at = torch.arange(1, epochs + 1, dtype=torch.float64)
    return (-((at - mean) ** 2) / (2 * std**2)).softmax(0)


@dataclass(frozen=True, kw_only=True)
class Settings(Added, ivlp.Settings):
    """PromptSRC."""

    lr: Rate = 0.0025
    """learning rate of SGD"""
    epochs: Epochs = 20
    """passes over the training images"""
    n_ctx: Length = 4
    """context length in every prompted layer of both branches"""
    depth: Annotated[int, Between(1, 1000)] = 9
    """prompted layers of both branches; more than the backbone has means all"""


class PromptSRC(SelfRegulation, IVLP):
    """PromptSRC: IVLP with self-regulation."""

    name, title, paper, year = "promptsrc", "PromptSRC", "2307.06948", 2023
    learns = "text context and visual tokens, independent"
    Settings = Settings
    added = SelfRegulation
    presets = {  # noqa: RUF012
        "few-shot": {"epochs": 50, "gpa_mean": 30.0, "gpa_std": 30.0},
        "cross-dataset": {"depth": 3, "gpa_mean": 6.0, "gpa_std": 10.0},
    }
