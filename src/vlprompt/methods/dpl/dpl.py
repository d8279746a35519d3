"""DPL, Differentiable Prompt Learning (arXiv 2501.00457): every layer's context length is learned.

Search stage: a supernet mixes, in each layer of both branches, prompts of 0 ... C tokens with
weights softmax(alpha); alphas learn on validation images, prompts on training images, in turn.
Train stage: fresh prompts with the lengths that the alphas prefer.

The published search hardly ranks configurations (docs/methods.md has the measurements). The defaults of
``warmup``, ``nested``, ``sampled``, ``share``, ``patience`` and ``ctx_init`` are this project's and mend it;
the preset ``paper`` is the search and the train stage as published.

Shapes: L layers, C longest context, D width of a branch, B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vlprompt.engine.packing import Row, context_slot
from vlprompt.engine.prompt import KeyValue, Prompt
from vlprompt.methods.base import Losses, Method, Outputs, Stage
from vlprompt.methods.dpl.settings import PAPER, Settings
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.dpl.tokens import text_tokens
from vlprompt.methods.lengths import Lengths, check_lengths
from vlprompt.methods.losses import distillation
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.templates import DEFAULT_TEMPLATE, IMAGENET_TEMPLATES, fill, template_features


class DPL(Method):
    """Train stage: key/value prompts of the found lengths, fresh unless ``inherit``."""

    name = "dpl"
    title = "DPL"
    paper = "2501.00457"
    year = 2025
    learns = "context length and key/value prompts of every layer, text and vision"
    Settings = Settings
    presets = {"paper": PAPER, "one-stage": {"inherit": True, "epochs": 0}}  # noqa: RUF012
    frozen_context: Tensor | None = None

    def build(self) -> None:
        """One prompt a layer, none before the lengths are known."""
        s, backbone = self.settings, self.encoder.backbone
        self.found = Lengths(tuple(s.text_lengths), tuple(s.vision_lengths))
        if not self.searches:
            check_lengths(s.text_lengths, len(backbone.text_layers), "text")
            check_lengths(s.vision_lengths, len(backbone.vision_layers), "vision")
        self.text_prompts = nn.ParameterList(text_tokens(self.encoder, s.ctx_init, s.text_lengths))
        self.vision_prompts = nn.ParameterList(
            random_tokens(n, backbone.vision_width, self.encoder) for n in s.vision_lengths
        )

    @property
    def lengths(self) -> Lengths:
        """Those that were given or found."""
        return self.found

    @property
    def searches(self) -> bool:
        """Whether lengths are still to be found."""
        return not (self.settings.text_lengths or self.settings.vision_lengths)

    @property
    def needs_validation(self) -> bool:
        """The search learns its alphas on validation images."""
        return self.searches

    @property
    def trains(self) -> bool:
        """Whether there are tokens, or lengths to find."""
        return self.searches or super().trains

    def stages(self) -> list[Stage]:
        """The search, unless lengths are given, and the training of what it found."""
        if not self.searches:
            return super().stages()
        s = self.settings
        search = Supernet(self.encoder, self.classnames, replace(s, epochs=s.search_epochs), self.templates)
        return [Stage("search", search), Stage("train", self, lambda: self.inherit(search))]

    def inherit(self, trained: Supernet) -> None:
        """Take the found lengths and start afresh with prompts of these lengths."""
        found = trained.lengths
        self.settings = replace(self.settings, text_lengths=found.text, vision_lengths=found.vision)
        self.build()
        self.found = found
        if self.settings.inherit:
            for layer, (prompt, n) in enumerate(zip(self.text_prompts, found.text, strict=True)):
                prompt.data.copy_(trained.tokens("text", layer, n).data)
            for layer, (prompt, n) in enumerate(zip(self.vision_prompts, found.vision, strict=True)):
                prompt.data.copy_(trained.tokens("vision", layer, n).data)

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Sequences of the new classes and, where it is needed, their embedded templates."""
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

    def terms(self, outputs: Outputs) -> Losses:
        """The distillation from zero-shot CLIP, where it is asked for."""
        terms = super().terms(outputs)
        if self.teacher is None:
            return terms
        zeroshot = self.logits(self.frozen_images(outputs.batch), self.teacher)  # (B, K)
        return terms | {"kl": self.settings.distill * distillation(outputs.logits, zeroshot)}

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
        offset, first = 0, self.encoder.backbone.starts
        for sequences in per_class:
            longest = max(map(len, sequences))
            padded = [s[first:-1] + s[-1:] * (longest - len(s)) for s in sequences]
            embedded = [self.encoder.embed(ids) for ids in padded]  # each (longest - first - 1, D)
            contexts.append(torch.stack(embedded).mean(0))
            slots = tuple(context_slot(offset + i) for i in range(longest - first - 1))
            rows.append(sequences[0][:first] + slots + sequences[0][-1:])
            offset += longest - first - 1
        return rows, torch.cat(contexts)
