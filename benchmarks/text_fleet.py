"""Many trainings of text contexts at once, each as if alone: one pass of the frozen text branch for all.

Image features are constants here, and all members have the same class names, so a step of R trainings is one
text pass with R contexts. Everything else is the members' own code: their losses, optimisers, draws and
schedules are those of :class:`vlprompt.training.stages.StageRun`; only the order in which sums are taken
differs.

Shapes: R members, K classes, n context length, D text width, E joint width, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlprompt.engine.encoder import Encoder
from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.methods.base import Method
from vlprompt.training.imageset import ImageSet, shuffled_batches, steps_in_epoch


class Told(Encoder):
    """An encoder of one member, told what the pass for all gave for its prompt."""

    def __init__(self, encoder: Encoder):
        super().__init__(encoder.backbone)
        self._kept = encoder._kept
        self.given: Tensor | None = None

    def encode_text(
        self, rows: Sequence[Row], prompt: Prompt | None = None, normalize: bool = True
    ) -> Tensor:
        """(K, E) of the pass for all; without prompt, and between steps, as ever."""
        if self.given is None or prompt is None:
            return super().encode_text(rows, prompt, normalize)
        return self.given


@dataclass
class Member:
    """One training.

    Args:
        method: made with an encoder of its own (:class:`Told`); what it learns in text is a context.
        images: frozen features.
        seed: of the classifier that would train it alone.
    """

    method: Method
    images: ImageSet
    seed: int

    def __post_init__(self) -> None:
        (self.objective,) = self.method.objectives()
        self.random = torch.get_rng_state()

    def begin(self, epoch: int) -> None:
        """The draws of an epoch, as the training loop begins them."""
        number = (self.seed * 4 + 2) * 100_003 + epoch
        self.random = torch.Generator().manual_seed(number * 1009).get_state()
        order = torch.Generator().manual_seed(number)
        size = self.method.settings.batch_size
        self.batches = [*shuffled_batches(len(self.images.labels), size, order, endless=False)]

    def ask(self, step: int) -> Tensor:
        """The context (n, D) of this step, with its images drawn."""
        torch.set_rng_state(self.random)
        self.batch = self.images.batch(self.batches[step], self.method.encoder.backbone.device)
        prompt = self.method.text_prompt()
        self.random = torch.get_rng_state()
        assert prompt is not None and prompt.context is not None
        return prompt.context

    def tell(self, features: Tensor, rate: float) -> Tensor:
        """The loss of this step, with the class features (K, E) that its context has."""
        for group in self.objective.optimizer.param_groups:
            group["lr"] = rate
        self.objective.optimizer.zero_grad()
        encoder: Any = self.method.encoder
        encoder.given = features
        loss = self.objective.loss(self.batch)["loss"]
        encoder.given = None
        return loss


def train(encoder: Encoder, members: Sequence[Member]) -> None:
    """Train all; they have the same sequences, epochs and number of images."""
    rows, first = members[0].method.sequences, members[0]
    epochs, size = first.method.settings.epochs, first.method.settings.batch_size
    assert all(m.method.sequences == rows and m.method.settings.epochs == epochs for m in members)
    steps = steps_in_epoch(len(first.images.labels), size)
    for epoch in range(epochs):
        for member in members:
            member.method.train()
            member.begin(epoch)
        for step in range(steps):
            contexts = torch.stack([member.ask(step) for member in members])  # (R, n, D)
            features = encoder.encode_text(rows, Prompt(context=contexts))  # (R, K, E)
            rates = [m.method.learning_rate(epoch + step / steps, epochs) for m in members]
            told = zip(members, features, rates, strict=True)
            torch.stack([m.tell(own, rate) for m, own, rate in told]).sum().backward()
            for member in members:
                member.objective.optimizer.step()
                member.method.after_step()
    for member in members:
        member.method.eval()
