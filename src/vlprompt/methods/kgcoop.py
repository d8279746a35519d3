"""KgCoOp, Knowledge-guided Context Optimization (arXiv 2303.13283): stay near the hand-crafted prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from vlprompt.methods import coop
from vlprompt.methods.base import Batch, Losses, template_features
from vlprompt.methods.coop import CoOp


@dataclass(frozen=True, kw_only=True)
class Settings(coop.Settings):
    """KgCoOp."""

    epochs: int = 100
    """passes over the training images"""
    batch_size: int = 128
    """images a step"""
    ctx_init: str = "a photo of a"
    """words whose embeddings start the context; empty for n_ctx random tokens"""
    n_ctx: int = 4
    """context length where ctx_init is empty"""
    knowledge: float = 8.0
    """weight of the distance between learned and hand-crafted class features"""


class KgCoOp(CoOp):
    """KgCoOp: cross-entropy + 8 * (1 - mean cosine to the hand-crafted class features) (eq. 5)."""

    name = "kgcoop"
    title = "KgCoOp"
    paper = "2303.13283"
    year = 2023
    learns = "text context"
    Settings = Settings

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Sequences and hand-crafted features of the new classes."""
        super().set_classes(classnames)
        self.teacher = template_features(self.encoder, self.classnames, self.templates[:1])  # (K, E)

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy plus the knowledge-guided regulariser."""
        class_features = self.class_features()  # (K, E)
        logits = self.logits(self.image_features(batch.images), class_features)  # (B, K)
        ce = F.cross_entropy(logits, batch.labels)
        kg = distance(class_features, self.teacher)
        return {"loss": ce + self.settings.knowledge * kg, "ce": ce, "kg": kg}


def distance(class_features: Tensor, handcrafted: Tensor) -> Tensor:
    """1 - mean cosine between class features (K, E) and hand-crafted ones (K, E), both normalised."""
    return 1 - (class_features * handcrafted).sum(-1).mean()
