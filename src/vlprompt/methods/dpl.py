"""DPL, Differentiable Prompt Learning (arXiv 2501.00457): every layer's context length is learned.

Search stage: a supernet mixes, in each layer of both branches, prompts of 0 ... C tokens with
weights softmax(alpha); alphas learn on validation images, prompts on training images, in turn.
Train stage: fresh prompts with the lengths of the largest alphas.

Shapes: L layers, C longest context, D width of a branch, B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.encoder import KeyValue, Prompt, Row, context_slot
from vlprompt.lengths import Lengths, uniform_alphas
from vlprompt.methods import base
from vlprompt.methods.base import (
    DEFAULT_TEMPLATE,
    Batch,
    Losses,
    Method,
    Objective,
    distillation,
    fill,
    random_tokens,
    template_features,
)
from vlprompt.templates import IMAGENET_TEMPLATES


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """DPL."""

    lr: float = 0.0035
    """learning rate of the prompts, in both stages"""
    epochs: int = 40
    """epochs of the train stage"""
    batch_size: int = 4
    """images a step"""
    search_epochs: int = 80
    """epochs of the search stage"""
    alpha_lr: float = 0.0035
    """learning rate of the alphas (Adam, betas 0.5 and 0.999)"""
    text_max: int = 6
    """longest context that a text layer may get"""
    vision_max: int = 6
    """longest context that a vision layer may get"""
    text_lengths: tuple[int, ...] = ()
    """context length of every text layer; given with vision_lengths, nothing is searched"""
    vision_lengths: tuple[int, ...] = ()
    """context length of every vision layer"""
    text: Literal["default", "custom", "ensemble"] = "default"
    """the frozen words: "a photo of a {}.", the data set's template, or the mean of embedded templates"""
    distill: float = 0.0
    """weight of KL(zero-shot CLIP || student) over the logits in the train stage"""


class Supernet(Method):
    """Search stage: one prompt (c, D) for every layer and every c in 1 ... C, and the alphas."""

    Settings = Settings

    def build(self) -> None:
        """Prompts U(0, 1) in text and N(0, 1) in vision, alphas 1e-3 * N(0, 1)."""
        s, backbone = self.settings, self.encoder.backbone
        self.text_prompts = nn.ParameterList(
            nn.Parameter(torch.rand(_tokens(s.text_max), backbone.text_width).to(backbone.device))
            for _ in backbone.text_layers
        )
        self.vision_prompts = nn.ParameterList(
            random_tokens(_tokens(s.vision_max), backbone.vision_width, self.encoder, std=1.0)
            for _ in backbone.vision_layers
        )
        self.text_alphas = uniform_alphas(len(backbone.text_layers), s.text_max, backbone.device)
        self.vision_alphas = uniform_alphas(len(backbone.vision_layers), s.vision_max, backbone.device)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """The frozen words "a photo of a {}."."""
        return self.encoder.tokenize([fill(DEFAULT_TEMPLATE, name) for name in classnames])

    def text_prompt(self) -> Prompt:
        """The text branch's mixture."""
        return _mixture(self.text_prompts, self.text_alphas)

    def vision_prompt(self) -> Prompt:
        """The vision branch's mixture."""
        return _mixture(self.vision_prompts, self.vision_alphas)

    def objectives(self) -> list[Objective]:
        """First-order bilevel: the alphas on a validation batch, then the prompts on a training batch."""
        alphas = [self.text_alphas, self.vision_alphas]
        adam = torch.optim.Adam(alphas, self.settings.alpha_lr, betas=(0.5, 0.999))
        prompts = [*self.text_prompts, *self.vision_prompts]
        return [
            Objective(self.loss, adam, split="val", scheduled=False),
            Objective(self.loss, self.sgd(prompts)),
        ]

    @property
    def lengths(self) -> Lengths:
        """The derived configuration: the argmax of each layer's alphas."""
        return Lengths.from_alphas(self.text_alphas, self.vision_alphas)

    def epoch_record(self) -> dict[str, Any]:
        """softmax(alpha) of every layer."""
        return {
            "alphas": {
                "text": self.text_alphas.detach().softmax(-1).tolist(),
                "vision": self.vision_alphas.detach().softmax(-1).tolist(),
            }
        }


class DPL(Method):
    """Train stage: fresh key/value prompts N(0, 0.02^2) of the found lengths."""

    name = "dpl"
    title = "DPL"
    paper = "2501.00457"
    year = 2025
    learns = "context length and key/value prompts of every layer, text and vision"
    Settings = Settings

    def build(self) -> None:
        """One prompt a layer, none before the lengths are known."""
        s, backbone = self.settings, self.encoder.backbone
        self.lengths = Lengths(tuple(s.text_lengths), tuple(s.vision_lengths))
        if self.lengths.text or self.lengths.vision:
            self.lengths.check(len(backbone.text_layers), len(backbone.vision_layers))
        self.text_prompts = nn.ParameterList(
            random_tokens(n, backbone.text_width, self.encoder) for n in s.text_lengths
        )
        self.vision_prompts = nn.ParameterList(
            random_tokens(n, backbone.vision_width, self.encoder) for n in s.vision_lengths
        )

    def first_stage(self) -> Supernet | None:
        """The search, unless lengths are given."""
        s = self.settings
        if s.text_lengths or s.vision_lengths:
            return None
        search = replace(s, epochs=s.search_epochs)
        return Supernet(self.encoder, self.classnames, search, self.templates)

    def inherit(self, trained: Method) -> None:
        """Take the found lengths and start afresh with prompts of these lengths."""
        assert isinstance(trained, Supernet)
        found = trained.lengths
        self.settings = replace(self.settings, text_lengths=found.text, vision_lengths=found.vision)
        self.build()
        self.lengths = found

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Sequences of the new classes and, where it is needed, their embedded templates."""
        self.frozen_context: Tensor | None = None
        super().set_classes(classnames)
        self.teacher: Tensor | None = None
        if self.settings.distill:
            self.teacher = template_features(self.encoder, self.classnames, self.templates)  # (K, E)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """The frozen words around the class names, as ``text`` says."""
        if self.settings.text == "ensemble":
            rows, self.frozen_context = self._ensemble(classnames)
            return rows
        template = self.templates[0] if self.settings.text == "custom" else DEFAULT_TEMPLATE
        return self.encoder.tokenize([fill(template, name) for name in classnames])

    def text_prompt(self) -> Prompt:
        """Key/value prompts of the text branch."""
        return Prompt(self.frozen_context, keys_values=[KeyValue(p) for p in self.text_prompts])

    def vision_prompt(self) -> Prompt:
        """Key/value prompts of the vision branch."""
        return Prompt(keys_values=[KeyValue(p) for p in self.vision_prompts])

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy, plus the distillation from zero-shot CLIP where it is asked for."""
        logits = self(batch.images)  # (B, K)
        ce = F.cross_entropy(logits, batch.labels)
        if self.teacher is None:
            return {"loss": ce}
        with torch.no_grad():
            zeroshot = self.logits(self.encoder.encode_image(batch.images), self.teacher)  # (B, K)
        kl = distillation(logits, zeroshot)
        return {"loss": ce + self.settings.distill * kl, "ce": ce, "kl": kl}

    def _ensemble(self, classnames: Sequence[str]) -> tuple[list[Row], Tensor]:
        """Position-wise mean of the token embeddings over the ImageNet templates.

        A shorter template goes on with end tokens up to the longest, where every template has one
        and the class feature is read.
        """
        per_class = [
            self.encoder.tokenize([fill(t, name) for t in IMAGENET_TEMPLATES]) for name in classnames
        ]
        rows: list[Row] = []
        contexts: list[Tensor] = []
        offset = 0
        for sequences in per_class:
            longest = max(map(len, sequences))
            padded = [s[1:-1] + s[-1:] * (longest - len(s)) for s in sequences]
            embedded = [self.encoder.embed(ids) for ids in padded]  # each (longest - 2, D)
            contexts.append(torch.stack(embedded).mean(0))
            slots = tuple(context_slot(offset + i) for i in range(longest - 2))
            rows.append(sequences[0][:1] + slots + sequences[0][-1:])
            offset += longest - 2
        return rows, torch.cat(contexts)


def _mixture(prompts: nn.ParameterList, alphas: Tensor) -> Prompt:
    """Key/value prompts with the candidates of every layer side by side: (C(C+1)/2, D) and (L, C+1)."""
    weights = alphas.softmax(-1)
    lengths = tuple(range(1, alphas.shape[1]))
    return Prompt(keys_values=[KeyValue(p, w, lengths) for p, w in zip(prompts, weights, strict=True)])


def _tokens(longest: int) -> int:
    """Number of tokens of all candidates 1 ... longest."""
    return longest * (longest + 1) // 2
