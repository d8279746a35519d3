"""KgCoOp, Knowledge-guided Context Optimization (arXiv 2303.13283): stay near the hand-crafted prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vlprompt.methods import coop
from vlprompt.methods.base import Losses, Method, Outputs
from vlprompt.methods.coop import CoOp
from vlprompt.methods.templates import template_features
from vlprompt.typed import BatchSize, Epochs, Length


@dataclass(frozen=True, kw_only=True)
class Added:
    """What the knowledge-guided term adds to the settings of any prompts."""

    knowledge: float = 8.0
    """weight of the distance between learned and hand-crafted class features"""


class KgLoss(Method):
    """knowledge * (1 - mean cosine to the hand-crafted class features) (eq. 5)."""

    Settings = Added

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Hand-crafted features of the new classes."""
        super().set_classes(classnames)
        self.knowledge_features = template_features(  # (K, E)
            self.encoder, self.classnames, self.templates[:1]
        )

    def terms(self, outputs: Outputs) -> Losses:
        """The knowledge-guided regulariser."""
        apart = distance(outputs.classes, self.knowledge_features)
        return super().terms(outputs) | {"kg": self.settings.knowledge * apart}


def distance(class_features: Tensor, handcrafted: Tensor) -> Tensor:
    """1 - mean cosine between class features (K, E) and hand-crafted ones (K, E), both normalised."""
    return 1 - (class_features * handcrafted).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class Settings(Added, coop.Settings):
    """KgCoOp."""

    epochs: Epochs = 100
    """passes over the training images"""
    batch_size: BatchSize = 128
    """images a step"""
    ctx_init: str = "a photo of a"
    """words whose embeddings start the context; empty for n_ctx random tokens"""
    n_ctx: Length = 4
    """context length where ctx_init is empty"""


class KgCoOp(KgLoss, CoOp):
    """KgCoOp: cross-entropy + 8 * (1 - mean cosine to the hand-crafted class features) (eq. 5)."""

    name, title, paper, year = "kgcoop", "KgCoOp", "2303.13283", 2023
    learns = "text context"
    Settings = Settings
    added = KgLoss

    @classmethod
    def settings_for(cls, shots: int | None, **changes: Any) -> Any:
        """The same number of epochs for all shots."""
        return cls.Settings(**changes)
