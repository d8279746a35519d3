"""DPL's search stage: prompts of all lengths in one network, and the weights that choose among them.

The mixture is computed inside attention, in one pass: :func:`vlprompt.engine.attention.mix`.

Shapes: L layers, C longest context, D width of a branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import KeyValue, Prompt
from vlprompt.errors import UserError
from vlprompt.methods.base import Batch, Losses, Method, Objective
from vlprompt.methods.dpl.alphas import first_alphas, from_alphas
from vlprompt.methods.dpl.settings import Settings
from vlprompt.methods.dpl.tokens import text_tokens
from vlprompt.methods.lengths import Lengths
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.templates import DEFAULT_TEMPLATE, fill


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
        return from_alphas(self.text_alphas, self.vision_alphas, s.budget, s.share)

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


def _tokens(longest: int) -> int:
    """Number of tokens of all candidates 1 ... longest."""
    return longest * (longest + 1) // 2
