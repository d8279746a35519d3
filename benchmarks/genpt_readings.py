"""Readings of GenPT's two ideas that were tried, as a method of one's own for ``genpt_study.py``.

    python benchmarks/genpt_study.py 'benchmarks/genpt_readings.py:{"information": "table"}'

One setting chooses the loss between the soft and the hand-crafted view, another what shifts class features.
What earned its place is in :mod:`vlprompt.methods.genpt`; the others are here so that the study can be
repeated.

Shapes: B images, K classes, T templates, E joint width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.methods import genpt
from vlprompt.methods.base import Batch, Losses, Outputs
from vlprompt.methods.genpt import GenPT, info_nce
from vlprompt.methods.templates import template_features

TINY = 1e-12


def each_template(soft: Tensor, views: Tensor, tau: float) -> Tensor:
    """InfoNCE (arXiv 1807.03748, eq. 5) with every template (T, K, E) as a view of its own."""
    return torch.stack([info_nce(soft, view, tau) for view in views]).mean()


def joint_table(soft: Tensor, handcrafted: Tensor) -> Tensor:
    """- I of the two views' predictions (B, K), from their joint table (arXiv 1807.06653, eq. 3)."""
    joint = soft.mT @ handcrafted / len(soft)  # (K, K)
    joint = (joint + joint.mT) / 2
    apart = joint.sum(0).log() + joint.sum(1, keepdim=True).log()
    return -(joint * ((joint + TINY).log() - apart)).sum()


def structure(soft: Tensor, handcrafted: Tensor, tau: float) -> Tensor:
    """KL of each class's similarities to the others, of one view to the other's (arXiv 1904.05068, eq. 3).

    There it is Huber's distance of normalised distances; here the softmax of cosines over tau.
    """
    same = torch.eye(len(soft), dtype=torch.bool)
    p, q = (
        (v @ v.mT / tau).masked_fill(same, -1e9).log_softmax(-1) for v in (handcrafted, soft)
    )  # (K, K) each
    return (p.exp() * (p - q)).sum(-1).mean()


def decoder(soft: Tensor, handcrafted: Tensor) -> Tensor:
    """1 - cosine: Barber and Agakov's bound (2003, eq. 3), von Mises-Fisher decoder, up to constants."""
    return 1 - (soft * handcrafted).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class Settings(genpt.Settings):
    """Readings of GenPT."""

    information: Literal["names", "templates", "table", "structure", "decoder", "critic"] = "names"
    """the loss between the views"""
    after_shift: bool = False
    """whether the soft view is the class features as they are shifted"""
    shift: Literal["learned", "ridge", "mixtures", "subsets"] = "learned"
    """the map of the shift: learned on names; least squares to mean images; learned on mixtures of images for
    a third of the classes; learned on a random part of the classes at each step"""


class Readings(GenPT):
    """GenPT with another loss between the views, or another shift."""

    name, title = "readings", "GenPT, read otherwise"
    Settings = Settings

    def build(self) -> None:
        """GenPT's, and a critic (E, E) where it is learned."""
        super().build()
        if self.settings.information == "critic":
            self.critic = nn.Parameter(torch.eye(self.encoder.backbone.joint_width))

    @property
    def sees(self) -> bool:
        """Always: what is read otherwise is made of images."""
        return True

    def see(self, features: Tensor, labels: Tensor) -> None:
        """The classes' mean images (K, E), and the map where it is least squares."""
        super().see(features, labels)
        self.views = torch.stack(
            [template_features(self.encoder, self.classnames, [t]) for t in self.templates]
        )  # (T, K, E)
        self.features, self.labels = features, labels
        means = torch.stack([features[labels == k].mean(0) for k in range(len(self.classnames))])  # (K, E)
        self.mean_image = means.mean(0)
        if self.settings.shift == "ridge":
            x = self.handcrafted - self.centre
            gram = x.mT @ x + 0.1 * torch.eye(x.shape[1])
            self.feature_shift.data = torch.linalg.solve(gram, x.mT @ (means - self.mean_image - x))
            self.feature_shift.requires_grad_(False)

    def shifted(self, features: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """GenPT's, or in training what mixtures of a class's images shift, for a third of the classes."""
        if not self.training or self.settings.shift != "mixtures":
            return super().shifted(features, share)
        own = self.labels == torch.arange(len(features))[:, None]  # (K, N)
        share = torch.empty(own.shape).exponential_() * own
        mixed = share / share.sum(-1, keepdim=True) @ self.features - self.mean_image  # (K, E)
        from_images = torch.rand(len(features)) < 0.3
        seen = torch.where(from_images[:, None], mixed, self.handcrafted - self.centre)
        return F.normalize(features + seen @ self.feature_shift, dim=-1)

    def loss(self, batch: Batch) -> Losses:
        """GenPT's, of the images and classes of a random part of the classes in ``subsets``."""
        if self.settings.shift != "subsets":
            return super().loss(batch)
        kept = torch.rand(len(self.classnames)) < 0.6
        kept[batch.labels[:1]] = True
        here = kept[batch.labels]
        classes = self.class_features()
        images, labels = batch.images[here], batch.labels[here]
        logits = self.logits(images, classes).masked_fill(~kept, -1e9)
        terms = {"ce": F.cross_entropy(logits, labels)} | self.terms(Outputs(batch, images, classes, logits))
        return {"loss": self.total(terms)} | terms

    def view_loss(self, outputs: Outputs, tau: Tensor | float) -> Tensor:
        """The loss between the views."""
        s = self.settings
        text, self._text = self._text, None
        soft = outputs.classes if s.after_shift or text is None else text
        if s.information == "templates":
            return each_template(soft, self.views, s.tau)
        if s.information == "table":
            given = self.logits(outputs.images, self.handcrafted).softmax(-1)
            return joint_table(self.logits(outputs.images, soft).softmax(-1), given)
        if s.information == "structure":
            return structure(soft, self.handcrafted, s.tau)
        if s.information == "decoder":
            return decoder(soft, self.handcrafted)
        return info_nce(soft @ self.critic if s.information == "critic" else soft, self.handcrafted, s.tau)
