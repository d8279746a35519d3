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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.encoder import Encoder
from vlprompt.engine.packing import Row, context_slot
from vlprompt.engine.prompt import KeyValue, Prompt
from vlprompt.errors import UserError
from vlprompt.methods import base
from vlprompt.methods.templates import DEFAULT_TEMPLATE, fill, template_features
from vlprompt.methods.base import Batch, Losses, Method, Objective, Outputs
from vlprompt.methods.losses import distillation
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.lengths import Lengths, check_lengths, first_alphas
from vlprompt.methods.templates import IMAGENET_TEMPLATES


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
    warmup: float = 2 / 3
    """share of the search's epochs in which the prompts learn and the alphas wait"""
    nested: bool = True
    """a context of length c is the beginning of the longest one, so that all lengths learn together"""
    sampled: bool = True
    """prompts and alphas learn with one length a layer instead of in the mixture: prompts with the longest
    everywhere or, in half of the steps, with any; alphas with lengths drawn from softmax(alpha)"""
    patience: int = 10
    """end the search when the lengths have been the same for so many epochs; 0 is never"""
    share: float = 0.25
    """take the longest context whose weight is at least this share of its layer's largest: below 1, a
    shorter one must be clearly better; 1 is the argmax, as published"""
    budget: int = 0
    """largest number of context tokens in all layers of both branches; 0 is no limit"""
    inherit: bool = False
    """start the train stage from the supernet's prompts; with epochs=0 they stay as they are"""
    text_start: tuple[int, ...] = ()
    """lengths of another data set that the search of the text branch starts from"""
    vision_start: tuple[int, ...] = ()
    """lengths of another data set that the search of the vision branch starts from"""
    text_lengths: tuple[int, ...] = ()
    """context length of every text layer; given with vision_lengths, nothing is searched"""
    vision_lengths: tuple[int, ...] = ()
    """context length of every vision layer"""
    ctx_init: str = "a photo of a"
    """words whose hidden states in each layer start its text prompt, over and over; empty for random
    tokens, as published. In the search only where nested"""
    text: Literal["default", "custom", "ensemble"] = "default"
    """the frozen words: "a photo of a {}.", the data set's template, or the mean of embedded templates"""
    distill: float = 0.0
    """weight of KL(zero-shot CLIP || student) over the logits in the train stage"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup", "share"):
            if getattr(self, name) > 1:
                raise UserError(f"{name} {getattr(self, name):g}: give a share from 0 to 1")


WORDS_SIZE = 0.05
"""Root mean square of the hidden states that text prompts start from, beside noise of 0.02."""
PAPER = {
    "warmup": 0.0, "nested": False, "sampled": False, "patience": 0, "share": 1.0, "ctx_init": ""
}  # fmt: skip
"""The search and the train stage as published, whatever the defaults."""


class Supernet(Method):
    """Search stage: a prompt (c, D) for every layer and every c in 1 ... C, and the alphas."""

    Settings = Settings

    def build(self) -> None:
        """Prompts U(0, 1) in text and N(0, 1) in vision, nested ones as DPL's; alphas 1e-3 * N(0, 1)."""
        s, backbone = self.settings, self.encoder.backbone
        if not s.text_max and not s.vision_max:
            raise UserError("text_max 0 and vision_max 0: there is nothing to search, raise one of them")
        self.text_prompts = nn.ParameterList(
            text_tokens(self.encoder, s.ctx_init, [s.text_max] * len(backbone.text_layers))
            if s.nested
            else (
                nn.Parameter(torch.rand(_tokens(s.text_max), backbone.text_width).to(backbone.device))
                for _ in backbone.text_layers
            )
        )
        self.vision_prompts = nn.ParameterList(
            random_tokens(s.vision_max, backbone.vision_width, self.encoder)
            if s.nested
            else random_tokens(_tokens(s.vision_max), backbone.vision_width, self.encoder, std=1.0)
            for _ in backbone.vision_layers
        )
        self.text_alphas = first_alphas(len(backbone.text_layers), s.text_max, s.text_start, backbone.device)
        self.vision_alphas = first_alphas(
            len(backbone.vision_layers), s.vision_max, s.vision_start, backbone.device
        )
        layers = len(self.text_alphas) + len(self.vision_alphas)
        self.stable: Tensor
        """For how many epochs the lengths have been the same, ()."""
        self.found: Tensor
        """Lengths after the last epoch, (text layers + vision layers,)."""
        self.register_buffer("stable", torch.zeros((), dtype=torch.long))
        self.register_buffer("found", torch.zeros(layers, dtype=torch.long))
        self.chosen: Lengths | None = None
        """Lengths that take the place of the mixture, for a step or to judge them."""

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """The frozen words "a photo of a {}."."""
        return self.encoder.tokenize([fill(DEFAULT_TEMPLATE, name) for name in classnames])

    def text_prompt(self) -> Prompt:
        """The text branch's mixture, or its chosen lengths."""
        lengths = None if self.chosen is None else self.chosen.text
        return self._prompt(self.text_prompts, self.text_alphas, lengths)

    def vision_prompt(self) -> Prompt:
        """The vision branch's mixture, or its chosen lengths."""
        lengths = None if self.chosen is None else self.chosen.vision
        return self._prompt(self.vision_prompts, self.vision_alphas, lengths)

    def objectives(self) -> list[Objective]:
        """First-order bilevel: the alphas on a validation batch, then the prompts on a training batch."""
        s, alphas = self.settings, [self.text_alphas, self.vision_alphas]
        adam = torch.optim.Adam(alphas, s.alpha_lr, betas=(0.5, 0.999))
        prompts = [*self.text_prompts, *self.vision_prompts]
        return [
            Objective(self.loss, adam, split="val", scheduled=False, start=self.waiting),
            Objective(self.sampled_loss if s.sampled else self.loss, self.optimizer(prompts)),
        ]

    def sampled_loss(self, batch: Batch) -> Losses:
        """The loss of one configuration: the longest, which holds all others, or any.

        All lengths are drawn alike: those that the alphas prefer would be trained, and so preferred, more.
        """
        with self.choose(self.longest if torch.rand(()) < 0.5 else self.draw()):
            return self.loss(batch._replace(below=None))  # each draw may begin in another layer

    def weights(self, alphas: Tensor) -> Tensor:
        """softmax(alpha) (L, C+1); where sampled, one length a layer drawn from it.

        The gradient is that of a Gumbel softmax passed straight through (arXiv 1611.01144; in architecture
        search, arXiv 1910.04465), so that the alphas judge single paths as the derived network is one.
        """
        if self.settings.sampled:
            return F.gumbel_softmax(alphas, hard=True)
        return alphas.softmax(-1)

    @property
    def waiting(self) -> int:
        """Epochs in which the alphas wait; at least one is left for them."""
        s = self.settings
        return min(round(s.warmup * s.epochs), max(s.epochs - 1, 0))

    @property
    def longest(self) -> Lengths:
        """The longest context in every layer."""
        s = self.settings
        return Lengths((s.text_max,) * len(self.text_alphas), (s.vision_max,) * len(self.vision_alphas))

    def draw(self) -> Lengths:
        """Any length a layer, but not none in all of them: nothing would learn."""
        while True:
            text, vision = (
                torch.randint(alphas.shape[1], (len(alphas),)).tolist()
                for alphas in (self.text_alphas, self.vision_alphas)
            )
            if any(text) or any(vision):
                return Lengths(tuple(text), tuple(vision))

    @contextmanager
    def choose(self, lengths: Lengths) -> Iterator[None]:
        """Use these lengths instead of the mixture."""
        self.chosen = lengths
        try:
            yield
        finally:
            self.chosen = None

    @property
    def lengths(self) -> Lengths:
        """The derived configuration: the argmax of each layer's alphas, within share and budget."""
        s = self.settings
        return Lengths.from_alphas(self.text_alphas, self.vision_alphas, s.budget, s.share)

    def tokens(self, branch: Literal["text", "vision"], layer: int, length: int) -> Tensor:
        """The prompt (length, D) of one candidate of one layer."""
        prompts = self.text_prompts if branch == "text" else self.vision_prompts
        return self._candidate(prompts[layer], length)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Count for how many epochs the lengths have been the same."""
        now = torch.tensor([*self.lengths.text, *self.lengths.vision])
        same = torch.equal(now, self.found.cpu()) and epoch > self.waiting
        self.stable.fill_(int(self.stable) + 1 if same else 0)
        self.found.copy_(now)

    def settled(self) -> bool:
        """Whether the lengths were stable for ``patience`` epochs."""
        return 0 < self.settings.patience <= int(self.stable)

    def epoch_record(self) -> dict[str, Any]:
        """softmax(alpha) of every layer."""
        return {
            "alphas": {
                "text": self.text_alphas.detach().softmax(-1).tolist(),
                "vision": self.vision_alphas.detach().softmax(-1).tolist(),
            }
        }

    def _candidate(self, prompt: Tensor, length: int) -> Tensor:
        """A candidate's tokens: the first of the longest prompt, or its own in the row of all candidates."""
        start = 0 if self.settings.nested else _tokens(length - 1)
        return prompt[start : start + length]

    def _prompt(self, prompts: nn.ParameterList, alphas: Tensor, lengths: Sequence[int] | None) -> Prompt:
        """Key/value prompts: one candidate a layer, or all of them, (C(C+1)/2, D), with (C+1,) weights."""
        if lengths is not None:
            chosen = [self._candidate(p, n) for p, n in zip(prompts, lengths, strict=True)]
            return Prompt(keys_values=[KeyValue(p) for p in chosen])
        candidates = tuple(range(1, alphas.shape[1]))
        if self.settings.nested:
            beginnings = [i for n in candidates for i in range(n)]
            every = [p[beginnings] for p in prompts]
        else:
            every = list(prompts)
        weights = self.weights(alphas)  # (L, C+1)
        return Prompt(keys_values=[KeyValue(p, w, candidates) for p, w in zip(every, weights, strict=True)])


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
        self.lengths = Lengths(tuple(s.text_lengths), tuple(s.vision_lengths))
        if self.lengths.text or self.lengths.vision:
            check_lengths(s.text_lengths, len(backbone.text_layers), "text")
            check_lengths(s.vision_lengths, len(backbone.vision_layers), "vision")
        self.text_prompts = nn.ParameterList(text_tokens(self.encoder, s.ctx_init, s.text_lengths))
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


def text_tokens(encoder: Encoder, words: str, lengths: Sequence[int]) -> list[nn.Parameter]:
    """Text prompts (n, D) of every layer: N(0, 0.02^2), around the words' hidden states there if any.

    Keys and values made of random tokens hurt the frozen text branch, the more the more there are: with
    12 a layer the toy backbone loses up to two fifths of its zero-shot accuracy before the first step. A
    layer's own hidden states leave it nearly as it is. The norm in front of keys and values forgets their
    size; they are made small, so that a learning rate turns them about as fast as random tokens.

    Raises:
        UserError: words without a token.
    """
    prompts = [random_tokens(n, encoder.backbone.text_width, encoder) for n in lengths]
    if words and prompts:
        for prompt, states in zip(prompts, encoder.word_states(words), strict=True):
            if not len(states):
                raise UserError(f"ctx_init '{words}' has no token: give words, or leave it empty")
            directions = states / states.square().mean(-1, keepdim=True).sqrt()  # (words, D)
            prompt.data += WORDS_SIZE * directions[torch.arange(len(prompt)) % len(directions)]
    return prompts


def _tokens(longest: int) -> int:
    """Number of tokens of all candidates 1 ... longest."""
    return longest * (longest + 1) // 2
