"""MMRL, Multi-Modal Representation Learning (arXiv 2503.08497): shared tokens enter the upper layers.

Shapes: K classes, B images, n representation tokens, R their width, D width of a branch, E joint width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.prompt import Prompt
from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.base import Batch, Losses, Method, Outputs
from vlprompt.methods.deep import later_layer
from vlprompt.methods.kgcoop import distance
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.schedules import cosine, warmed_cosine
from vlprompt.methods.templates import template_features
from vlprompt.typed import BatchSize, Between, Epochs, Rate, Share


@dataclass(frozen=True, kw_only=True)
class Added:
    """What representation tokens add to the settings of any prompts."""

    n_tokens: Annotated[int, Between(1, 512)] = 5
    """representation tokens"""
    width: Annotated[int, Between(1, 65_536)] = 512
    """width of the space that they are shared in; published: 2048 for EuroSAT"""
    start: Annotated[int, Between(2, 1000)] = 6
    """first layer that they enter, counted from 1; a backbone with fewer layers takes its last"""
    alpha: Share = 0.7
    """share of the class token's loss and logits beside those of the representation tokens"""
    regularization: float = 0.5
    """weight of the distances to frozen CLIP; published by data set, from 0.01 to 7"""


class Representation(Method):
    """Tokens mapped from a shared space into each upper layer; two image features (section 3)."""

    Settings = Added

    def build(self) -> None:
        """Tokens (n, R), a map R -> D for each layer, all alike at the start, a projection (D, E)."""
        super().build()
        self._check_places()
        s, backbone = self.settings, self.encoder.backbone
        counts = len(backbone.text_layers), len(backbone.vision_layers)
        self.first = later_layer(s.start, min(counts), "text or vision")
        self.tokens = random_tokens(s.n_tokens, s.width, self.encoder)

        def maps(count: int, width: int) -> nn.ModuleList:
            one = nn.Linear(s.width, width)
            return nn.ModuleList(copy.deepcopy(one) for _ in range(self.first, count)).to(backbone.device)

        self.to_text = maps(counts[0], backbone.text_width)
        self.to_vision = maps(counts[1], backbone.vision_width)
        width = backbone.vision_width
        self.projection = random_tokens(width, backbone.joint_width, self.encoder, std=width**-0.5)
        known = torch.ones(len(self.classnames), dtype=torch.bool, device=backbone.device)
        self.known = nn.Parameter(known, requires_grad=False)
        self.trained_names: set[str] = set()

    def _check_places(self) -> None:
        """Refuse other prompts whose tokens stand where these are to stand.

        Raises:
            UserError: deep tokens, or visual tokens.
        """
        text, vision = super().text_prompt() or Prompt(), super().vision_prompt() or Prompt()
        if text.deep or vision.deep or vision.context is not None:
            raise UserError(
                f"method '{self.name}': MMRL's tokens would take the place of other deep or visual tokens: "
                "add it to a text context or to prompts inside layers, as in coop+mmrl or dpl+mmrl"
            )

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Frozen features of the new classes, and which of them were trained."""
        before = self.classnames
        super().set_classes(classnames)
        self.frozen_classes = template_features(self.encoder, self.classnames, self.templates[:1])  # (K, E)
        self.trained_names |= {name for name, is_known in zip(before, self.known, strict=True) if is_known}
        known = torch.tensor([name in self.trained_names for name in self.classnames])
        self.known.data, self.mixes = known.to(self.known.device), bool(known.all())

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """What was learned, and which classes were trained."""
        super().load_parameters(tensors)
        self.mixes = bool(self.known.all())

    def text_prompt(self) -> Prompt:
        """Inserted after the start token at their first layer, replaced at each further one."""
        place = self.encoder.backbone.starts, 0
        return replace(super().text_prompt() or Prompt(), deep=self._deep(self.to_text), place=place)

    def vision_prompt(self) -> Prompt:
        """The same after the patches."""
        return replace(super().vision_prompt() or Prompt(), deep=self._deep(self.to_vision))

    def _deep(self, maps: nn.ModuleList) -> list[Tensor | None]:
        return [None] * (self.first - 1) + [f(self.tokens) for f in maps]

    def image_features(self, images: Tensor, below: Callable[[int], Tensor] | None = None) -> Tensor:
        """The class token's feature and that of the representation tokens, (B, 2, E)."""
        backbone, n = self.encoder.backbone, self.settings.n_tokens
        states = self.encoder.image_states(images, self.vision_prompt(), below, n)  # (B, R + n, D)
        mean = backbone.norm_vision(states[:, -n:]).mean(1)  # (B, D)
        both = backbone.finish_vision(states), (mean @ self.projection.to(mean.dtype))
        return F.normalize(torch.stack(both, 1), dim=-1)

    def logits(self, image_features: Tensor, class_features: Tensor) -> Tensor:
        """Both features' logits mixed where all classes were trained, the class token's for others.

        Args:
            image_features: (B, 2, E), or (B, E) of one kind.
            class_features: (K, E).
        """
        if image_features.ndim == 2:
            return super().logits(image_features, class_features)
        by_class, by_tokens = (
            super(Representation, self).logits(f, class_features) for f in image_features.unbind(1)
        )
        alpha = self.settings.alpha
        return alpha * by_class + (1 - alpha) * by_tokens if self.mixes else by_class

    def loss(self, batch: Batch) -> Losses:
        """alpha CE + (1 - alpha) CE of the tokens + lambda (1 - cos) of images and of classes (eq. 12)."""
        s, classes = self.settings, self.class_features()
        images, by_tokens = self.image_features(batch.images, batch.below).unbind(1)  # (B, E)
        logits = self.logits(images, classes)  # (B, K)
        terms = {
            "ce": s.alpha * F.cross_entropy(logits, batch.labels),
            "ce_tokens": (1 - s.alpha) * F.cross_entropy(self.logits(by_tokens, classes), batch.labels),
            "image": s.regularization * distance(images, self.frozen_images(batch)),
            "text": s.regularization * distance(classes, self.frozen_classes),
        }
        terms |= self.terms(Outputs(batch, images, classes, logits))
        return {"loss": self.total(terms)} | terms


@dataclass(frozen=True, kw_only=True)
class Settings(Added, base.Settings):
    """MMRL, base-to-new."""

    optimizer: Literal["sgd", "adamw", "adam"] = "adamw"
    """AdamW as published, or another"""
    lr: Rate = 0.001
    """learning rate"""
    epochs: Epochs = 10
    """passes over the training images"""
    batch_size: BatchSize = 4
    """images a step"""
    warmup: bool = True
    """whether the first epoch runs at 1e-5"""


class MMRL(Representation):
    """MMRL: representation tokens in both branches."""

    name, title, paper, year = "mmrl", "MMRL", "2503.08497", 2025
    learns = "tokens of a shared space, their maps into the upper layers, and a second image projection"
    Settings = Settings
    added = Representation
    smallest_crop = 0.5
    presets = {  # noqa: RUF012
        "few-shot": {"batch_size": 32, "epochs": 50},
        "cross-dataset": {"batch_size": 32, "epochs": 1, "warmup": False, "regularization": 0.2},
        "imagenet": {"batch_size": 32, "epochs": 5},
    }

    def learning_rate(self, at: float, epochs: int) -> float:
        """The field's schedule, or the cosine alone."""
        lr = self.settings.lr
        return warmed_cosine(lr, at, epochs) if self.settings.warmup else cosine(lr, int(at), epochs)
