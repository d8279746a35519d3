"""Zero-shot CLIP: class features from hand-crafted templates; nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlprompt.methods import base
from vlprompt.methods.base import Method
from vlprompt.methods.templates import template_features
from vlprompt.typed import Epochs


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """Zero-shot CLIP."""

    epochs: Epochs = 0
    """nothing is trained"""
    ensemble: bool = True
    """mean of the class features over all templates of the data set; otherwise the first template alone"""


class ZeroShot(Method):
    """Zero-shot CLIP (arXiv 2103.00020, section 3.1.4)."""

    name, title, paper, year = "zeroshot", "Zero-shot CLIP", "2103.00020", 2021
    learns = "nothing"
    Settings = Settings

    def class_features(self) -> Tensor:
        """Each template's features normalised, their mean normalised: (K, E)."""
        templates = self.templates if self.settings.ensemble else self.templates[:1]
        return template_features(self.encoder, self.classnames, templates)
