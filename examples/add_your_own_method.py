"""A method of your own is one file: vlprompt fit DATA --method examples/add_your_own_method.py --out OUT

Task residuals (after arXiv 2211.10277): the class features of the hand-crafted prompts stay frozen, and
a vector is learned for each class and added to its feature. Shapes: K classes, E joint width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from vlprompt import UserError
from vlprompt.methods import base
from vlprompt.methods.templates import template_features


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    alpha: float = 0.5
    """weight of the residuals"""  # such a line is the help of the flag --alpha


class TaskResidual(base.Method):
    name, title, paper, year = "residuals", "Task residuals", "2211.10277", 2023
    learns = "a residual of every class feature"
    Settings = Settings

    def build(self):
        zeros = torch.zeros(len(self.classnames), self.encoder.backbone.joint_width)  # (K, E)
        self.residual = nn.Parameter(zeros.to(self.encoder.backbone.device))

    def set_classes(self, classnames):
        if tuple(classnames) != self.classnames:
            raise UserError("residuals were learned for other classes: train again for these")
        super().set_classes(classnames)
        self.frozen = template_features(self.encoder, classnames, self.templates)  # (K, E)

    def class_features(self):
        return F.normalize(self.frozen + self.settings.alpha * self.residual, dim=-1)  # (K, E)
