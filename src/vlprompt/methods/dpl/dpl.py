"""DPL, Differentiable Prompt Learning (arXiv 2501.00457): every layer's context length is learned.

This project's search is part of training: it begins with the longest context in every layer of both branches
and closes the tokens that do least (:mod:`vlprompt.methods.dpl.gates`) until the budget is kept. The
published one, the preset ``paper``, is a stage of its own (:mod:`vlprompt.methods.dpl.supernet`): a supernet
mixes prompts of 0 ... C tokens with weights softmax(alpha); then fresh prompts of the likeliest lengths are
trained.

Shapes: L layers, C longest context, D width of a branch, B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlprompt.engine.packing import Row, context_slot
from vlprompt.engine.prompt import KeyValue, Prompt
from vlprompt.methods.base import Losses, Method, Outputs, Stage
from vlprompt.methods.dpl import path
from vlprompt.methods.dpl.gates import Gates
from vlprompt.methods.dpl.settings import PAPER, RETIRED, Settings
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.dpl.tokens import text_tokens
from vlprompt.methods.lengths import Lengths, check_lengths
from vlprompt.methods.losses import distillation
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.templates import DEFAULT_TEMPLATE, IMAGENET_TEMPLATES, fill, template_features


class DPL(Method):
    """DPL: key/value prompts of given lengths, or of the longest, from which the search closes tokens."""

    name = "dpl"
    title = "DPL"
    paper = "2501.00457"
    year = 2025
    learns = "context length and key/value prompts of every layer, text and vision"
    needs = frozenset()
    Settings = Settings
    presets = {"paper": PAPER}  # noqa: RUF012
    retired = RETIRED
    frozen_context: Tensor | None = None

    def build(self) -> None:
        """One prompt a layer; where the search has a stage of its own, none before it has ended."""
        s, backbone = self.settings, self.encoder.backbone
        layers = len(backbone.text_layers), len(backbone.vision_layers)
        if self.searches:
            longest = 0 if self.searches_first else 1
            text, vision = [longest * s.text_max] * layers[0], [longest * s.vision_max] * layers[1]
        else:
            text, vision = list(s.text_lengths), list(s.vision_lengths)
            check_lengths(text, layers[0], "text")
            check_lengths(vision, layers[1], "vision")
        self.text_prompts = nn.ParameterList(text_tokens(self.encoder, s.ctx_init, text))
        self.vision_prompts = nn.ParameterList(
            random_tokens(n, backbone.vision_width, self.encoder) for n in vision
        )
        self.found: Lengths | None = None
        self.gates: Gates | None = None
        if self.searches and not self.searches_first:
            every = torch.tensor([*text, *vision], device=backbone.device)
            self.gates = Gates(every, s.tokens(int(every.sum())), self.portions(every))

    def portions(self, longest: Tensor) -> Tensor | None:
        """What the search opens and closes together, see :class:`Gates`; ``None`` is each token by itself.

        Args:
            longest: (L,) longest context of each layer, text layers first.
        """
        return None

    @property
    def searches(self) -> bool:
        """Whether lengths are still to be found."""
        return not (self.settings.text_lengths or self.settings.vision_lengths)

    @property
    def searches_first(self) -> bool:
        """Whether the search is a stage of its own."""
        return self.searches and (self.settings.search == "alphas" or self.settings.fresh)

    @property
    def needs_validation(self) -> bool:
        """The published search learns its alphas on validation images, ``auto`` chooses the size by them."""
        s = self.settings
        return self.searches and (s.search == "alphas" or s.budget == "auto")

    @property
    def trains(self) -> bool:
        """Whether there are tokens, or lengths to find."""
        return self.searches or super().trains

    @property
    def lengths(self) -> Lengths | None:
        """Those that were given or found; while they are searched, what is left."""
        if self.gates is None:
            return self.found or Lengths(
                tuple(self.settings.text_lengths), tuple(self.settings.vision_lengths)
            )
        left, text = self.gates.lengths, len(self.text_prompts)
        return Lengths(tuple(left[:text]), tuple(left[text:]))

    # Training.

    def stages(self) -> list[Stage]:
        """Training, after the search where that is a stage of its own."""
        if not self.searches_first:
            return super().stages()
        s = self.settings
        search: Method
        if s.search == "alphas":
            search = Supernet(
                self.encoder, self.classnames, replace(s, epochs=s.search_epochs), self.templates
            )
        else:
            search = type(self)(self.encoder, self.classnames, replace(s, fresh=False), self.templates)
        if self.head is not None:  # as it starts here
            search.load_state_dict({"head": self.head.detach()}, strict=False)
        return [Stage("search", search), Stage("train", self, lambda: self.take(search.lengths))]

    def take(self, found: Lengths | None) -> None:
        """Start afresh with prompts of these lengths."""
        assert found is not None
        self.settings = replace(self.settings, text_lengths=found.text, vision_lengths=found.vision)
        self.build()
        self.found = found

    @property
    def watched(self) -> tuple[nn.Parameter, ...]:
        """While tokens are being closed, what tells how much the loss depends on each."""
        return () if self.gates is None else (self.gates.probe,)

    def after_step(self) -> None:
        """Close the tokens that are due."""
        super().after_step()
        if self.gates is not None:
            self.gates.after_step(self.settings.epochs)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """The gates count epochs."""
        super().after_epoch(epoch, epochs)
        if self.gates is not None:
            self.gates.after_epoch(epoch, epochs)

    def check(self, validation: path.Validation, share: float) -> dict[str, Any]:
        """When a good half is done, decide how many tokens there will be, where that is open."""
        gates = self.gates
        if gates is None or gates.budget or share < path.START:
            return {}
        path.measure(self, gates, validation)
        if share < path.MIDDLE:
            return {}
        points, chosen = path.curve(self, gates, len(self.text_prompts), validation), path.choose(gates)
        gates.choose(gates.sizes[chosen])
        return {"path": points, "chosen": chosen}

    def epoch_record(self) -> dict[str, Any]:
        """Open tokens of every layer and how far halves of the images agree, while lengths are searched."""
        gates, lengths = self.gates, self.lengths
        if gates is None or lengths is None:
            return super().epoch_record()
        opened = {"lengths": {"text": lengths.text, "vision": lengths.vision}}
        return super().epoch_record() | opened | {"agreement": gates.agreement, "placed": gates.decides}

    def finish(self) -> None:
        """Closed tokens go for good."""
        if self.gates is None:
            return
        self.gates.finish()
        found, gates = self.lengths, self.gates
        assert found is not None
        for layer, prompt in enumerate([*self.text_prompts, *self.vision_prompts]):
            prompt.data, prompt.grad = prompt.data[gates.open[layer, : len(prompt)]], None
        self.settings = replace(self.settings, text_lengths=found.text, vision_lengths=found.vision)
        self.gates, self.found = None, found

    # Prompts.

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
        return Prompt(self.frozen_context, keys_values=self._keys_values(self.text_prompts, 0))

    def vision_prompt(self) -> Prompt:
        """Key/value prompts of the vision branch."""
        return Prompt(keys_values=self._keys_values(self.vision_prompts, len(self.text_prompts)))

    def _keys_values(self, prompts: nn.ParameterList, first: int) -> list[KeyValue]:
        """A branch's prompts with their gates; ``first`` is its first layer's number among both branches'."""
        if self.gates is None:
            return [KeyValue(p) for p in prompts]
        return [KeyValue(p, log_gates=self.gates.log_gates(first + i, len(p))) for i, p in enumerate(prompts)]

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
