"""PromptKD (arXiv 2403.02781): a small student learns from a larger teacher's answers, without labels.

Shapes: K classes, B images, E joint width of the student, T of the teacher.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.packing import Row
from vlprompt.errors import UserError
from vlprompt.methods import vpt
from vlprompt.methods.base import Batch, Losses, Method, is_features
from vlprompt.methods.losses import distillation
from vlprompt.methods.vpt import VPT
from vlprompt.typed import Between, Epochs, Length, Positive, Rate

MOST_WIDE = 65_536
"""Largest width of a teacher."""


@dataclass(frozen=True, kw_only=True)
class Settings(vpt.Settings):
    """PromptKD."""

    lr: Rate = 0.005
    """learning rate of SGD"""
    epochs: Epochs = 20
    """passes over the images; the last is kept, where the release keeps the best on the test images"""
    batch_size: Annotated[int, Between(2, 100_000)] = 8
    """images a step, over which the projector normalises"""
    n_ctx: Length = 4
    """visual tokens in every prompted layer"""
    depth: Annotated[int, Between(1, 1000)] = 9
    """prompted layers; more than the backbone has means all"""
    teacher: str = ""
    """folder of the fitted classifier to learn from, of a larger backbone; not needed to predict"""
    distill: float = 1000.0
    """weight of the divergence; published: 200 for FGVC Aircraft, Oxford Flowers and DTD"""
    temperature: Positive = 1.0
    """of both softmaxes"""


class BatchNorm(nn.Module):
    """Batch normalisation whose running statistics are parameters: they are kept with the classifier.

    Of several processes each normalises over its own part of a batch.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.variance = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T); by the batch's own statistics in training, by the running ones in prediction."""
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, self.training)


def projector(width: int, teacher: int) -> nn.Sequential:
    """E -> T -> T, batch norm and ReLU between."""
    return nn.Sequential(
        OrderedDict(
            linear1=nn.Linear(width, teacher),
            norm=BatchNorm(teacher),
            relu=nn.ReLU(),
            linear2=nn.Linear(teacher, teacher),
        )
    )


class PromptKD(VPT):
    """PromptKD: visual prompts and a projector into the teacher's space, whose class features serve both."""

    name, title, paper, year = "promptkd", "PromptKD", "2403.02781", 2024
    learns = "visual tokens and a projector, from a larger teacher's answers to images without labels"
    Settings = Settings
    presets = {"cross-dataset": {"depth": 3}}  # noqa: RUF012
    needs = Method.needs
    requires = ("teacher",)
    transductive = True

    def build(self) -> None:
        """Prompts, a projector and class features (K, T); T is E until the teacher is known."""
        super().build()
        self._fit_teacher(self.encoder.backbone.joint_width)

    def _fit_teacher(self, width: int) -> None:
        device = self.encoder.backbone.device
        made = projector(self.encoder.backbone.joint_width, width).to(device)
        self.projector = made.train(self.training)
        zeros = torch.zeros(len(self.classnames), width, device=device)
        self.teacher_classes = nn.Parameter(zeros, requires_grad=False)

    def taught_by(self, classes: Tensor) -> None:
        """Keep the teacher's class features (K, T), and project into its width."""
        self._fit_teacher(classes.shape[-1])
        self.teacher_classes.copy_(classes)

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """What was learned, in the width of its teacher."""
        classes = tensors.get("teacher_classes")
        if classes is not None and classes.ndim == 2 and 0 < classes.shape[1] <= MOST_WIDE:
            self._fit_teacher(classes.shape[1])
        super().load_parameters(tensors)

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Some of the classes that the teacher knew, or all of them, in any order.

        Raises:
            UserError: another class.
        """
        place = {name: i for i, name in enumerate(self.classnames)}
        if other := [name for name in classnames if name not in place]:
            raise UserError(
                "PromptKD keeps its teacher's features of the classes that it was trained on, and "
                f"'{other[0]}' is not among them: distil with all the names that it shall know"
            )
        self.teacher_classes.data = self.teacher_classes[[place[name] for name in classnames]]
        super().set_classes(classnames)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """None: the student's text branch is not used."""
        return []

    def class_features(self) -> Tensor:
        """The teacher's (K, T)."""
        return self.teacher_classes

    def image_features(self, images: Tensor, below: Callable[[int], Tensor] | None = None) -> Tensor:
        """Projected into the teacher's space (B, T); features given are features returned."""
        if is_features(images):
            return images
        features = self.encoder.encode_image(images, self.vision_prompt(), below, normalize=False)
        return F.normalize(self.projector(features.to(next(self.projector.parameters()).dtype)), dim=-1)

    def loss(self, batch: Batch) -> Losses:
        """distill * t^2 * KL(teacher / t || student / t), averaged over images and classes (eq. 4)."""
        assert batch.taught is not None, "nobody asked the teacher"
        t = self.settings.temperature
        logits = self.logits(self.image_features(batch.images, batch.below), self.class_features())  # (B, K)
        kd = self.settings.distill * t**2 * distillation(logits / t, batch.taught().to(logits.dtype) / t)
        return {"loss": kd, "kd": kd}
