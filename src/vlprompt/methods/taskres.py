"""TaskRes, Task Residual (arXiv 2211.10277): a residual on each class feature, no prompts; a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.base import Method
from vlprompt.methods.templates import fill
from vlprompt.typed import BatchSize, Epochs


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """TaskRes, with the regular base classifier."""

    optimizer: Literal["sgd", "adamw", "adam"] = "adam"
    """Adam as published, or another"""
    epochs: Epochs = 200
    """published: 200 at 16 or 8 shots, 100 at fewer"""
    batch_size: BatchSize = 256
    """images a step"""
    alpha: float = 0.5
    """weight of the residual; published: 1 for Oxford Flowers"""
    underscores: bool = False
    """leave underscores in class names, as the release does; otherwise they become spaces"""


class TaskRes(Method):
    """TaskRes: class feature = t + alpha * x, with t the frozen one at its natural length (eq. 4)."""

    name, title, paper, year = "taskres", "TaskRes", "2211.10277", 2022
    learns = "a residual of each class feature"
    Settings = Settings
    presets = {"vit-b16": {"lr": 2e-4, "epochs": 200}}  # noqa: RUF012

    def build(self) -> None:
        """The residuals (K, E), zero."""
        backbone = self.encoder.backbone
        zeros = torch.zeros(len(self.classnames), backbone.joint_width, device=backbone.device)
        self.residual = nn.Parameter(zeros)

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Only the classes that were trained; their base is the mean over the templates, not normalised."""
        if tuple(classnames) != self.classnames:
            raise UserError(
                "TaskRes learned a residual for each of the classes that it was trained on: "
                "use a method that learns prompts for other class names"
            )
        super().set_classes(classnames)
        keep = self.settings.underscores
        texts = [[fill(t, name, underscores=keep) for name in classnames] for t in self.templates]
        with torch.no_grad():
            encode = self.encoder.encode_text
            each = [encode(self.encoder.tokenize(t), normalize=False) for t in texts]
            self.base_features = torch.stack(each).mean(0)  # (K, E)

    def class_features(self) -> Tensor:
        """normalise(t + alpha * x), (K, E)."""
        return F.normalize(self.base_features + self.settings.alpha * self.residual, dim=-1)

    @classmethod
    def settings_for(cls, shots: int | None, **changes: Any) -> Any:
        """The number of epochs depends on the shots."""
        return cls.Settings(**{"epochs": 100 if shots in (1, 2, 4) else 200} | changes)
