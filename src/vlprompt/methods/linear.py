"""Linear probe: logistic regression on frozen image features; the reference beside prompt learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.base import Method
from vlprompt.typed import Between, Epochs, Positive


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """Linear probe."""

    epochs: Epochs = 0
    """solved at once, not trained in epochs"""
    c: Positive = 316.0
    """inverse strength of the L2 penalty, for features of length 1"""
    max_iterations: Annotated[int, Between(1, 1_000_000)] = 1000
    """largest number of L-BFGS steps"""


class LinearProbe(Method):
    """Linear probe on CLIP's image features (arXiv 2103.00020, section 3.2); names play no part."""

    name, title, paper, year = "linear", "Linear probe", "2103.00020", 2021
    learns = "a linear classifier on image features"
    needs = frozenset()
    Settings = Settings

    def build(self) -> None:
        """Weights (K, E) and biases (K,), zero until the images are seen."""
        k, backbone = len(self.classnames), self.encoder.backbone
        self.weight = nn.Parameter(torch.zeros(k, backbone.joint_width, device=backbone.device), False)
        self.bias = nn.Parameter(torch.zeros(k, device=backbone.device), False)

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Only the classes that were trained."""
        if tuple(classnames) != self.classnames:
            raise UserError(
                "a linear probe knows only the classes that it was trained on: "
                "use a method that learns prompts for other class names"
            )
        super().set_classes(classnames)

    def see(self, features: Tensor, labels: Tensor) -> None:
        """Solve the regression on the training images' features (N, E)."""
        from sklearn.linear_model import LogisticRegression

        solver = LogisticRegression(C=self.settings.c, max_iter=self.settings.max_iterations)
        solver.fit(features.cpu().double().numpy(), labels.cpu().numpy())
        weight, bias = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
        if len(solver.classes_) == 2:  # one row: the log-odds of the second class
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.image_features(images) @ self.weight.T + self.bias

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """Class names play no part."""
        return self
