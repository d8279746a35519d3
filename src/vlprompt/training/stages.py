"""One stage of training: epochs of steps, every objective once a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlprompt.errors import UserError
from vlprompt.methods.base import Batch, Losses, Objective, Stage
from vlprompt.progress import meter, say
from vlprompt.training import checkpoint
from vlprompt.training.imageset import ImageSet, shuffled_batches, steps_in_epoch
from vlprompt.training.options import TrainOptions
from vlprompt.training.pixels import BATCH
from vlprompt.training.processes import Processes

EpochRecord = dict[str, Any]
"""What the log keeps of one epoch: stage, epoch, lr, mean losses, seconds, the method's own."""
LOOKS = 20
"""How often in a stage the accuracy on validation images is taken at most; it costs time, too."""


class StageRun:
    """One stage as it runs.

    Args:
        seed: of the order of its images and of what its losses draw.
        checkpoints: folder; ``None`` keeps nothing.
        validation: images whose accuracy is recorded after some epochs, see :data:`LOOKS`.
    """

    def __init__(
        self,
        stage: Stage,
        splits: dict[str, ImageSet],
        options: TrainOptions,
        seed: int,
        processes: Processes,
        checkpoints: Path | None,
        show: bool,
        validation: ImageSet | None = None,
    ):
        self.name, self.method, self.splits = stage.name, stage.method, splits
        self.options, self.seed, self.processes, self.show = options, seed, processes, show
        self.validation = validation
        self.file = checkpoints / f"{self.name}.safetensors" if checkpoints else None
        self.objectives = self.method.objectives()
        self.epochs: int = self.method.settings.epochs if self.objectives else 0
        self.history: list[EpochRecord] = []
        needed = {o.split for o in self.objectives} | ({"val"} if self.method.needs_validation else set())
        if any(name not in splits or not len(splits[name].labels) for name in needed):
            raise UserError(
                f"the {self.name} stage of '{type(self.method).__name__}' learns on validation images and "
                "there are none: give images of your own for validation, or more images than shots"
            )

    def run(self, on_epoch: Callable[[EpochRecord], None] | None = None) -> list[EpochRecord]:
        """All epochs that are not done yet."""
        self._load()
        done, each = len(self.history), self.steps
        if done and self.show:
            say(f"{self.name}: goes on after epoch {done} of {self.epochs}")
        faster = self.splits["train"].faster
        with meter(f"{self.name:6}", self.epochs * each, done * each, self.show, faster) as advance:
            for epoch in range(done, self.epochs):
                self.history.append(self._epoch(epoch, advance))
                self._save()
                if on_epoch is not None:
                    on_epoch(self.history[-1])
        return self.history

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return steps_in_epoch(len(self.splits["train"].labels), self.method.settings.batch_size)

    def _epoch(self, epoch: int, advance: Callable[[str], None]) -> EpochRecord:
        """One pass over the training images, every objective once a step."""
        start = time.perf_counter()
        number = self.seed * 100_003 + epoch
        torch.manual_seed(number * 1009)
        order = torch.Generator().manual_seed(number)
        self.method.train()
        streams = self._streams(order)
        sums: dict[str, float] = {}
        steps, count = 0, self.steps
        for positions in streams["train"]:
            self._set_rate(self.method.learning_rate(epoch + steps / count, self.epochs))
            for objective in self.objectives:
                chosen = positions if objective.split == "train" else next(streams[objective.split])
                losses = self._step(objective, chosen, epoch, steps)
                for key, value in losses.items():
                    name = key if objective.split == "train" else f"{objective.split}_{key}"
                    sums[name] = sums.get(name, 0.0) + value
            steps += 1
            advance(f"loss {sums['loss'] / steps:.3f}")
        moved = [p for objective in self.objectives for p in objective.parameters]
        if not all(p.isfinite().all() for p in moved):  # the last step's doing: no loss has shown it
            raise UserError(self._not_finite(math.nan, epoch, steps - 1))
        self.method.after_epoch(epoch, self.epochs)
        means = {key: value / steps for key, value in sums.items()}
        seconds = time.perf_counter() - start
        rate = self.method.learning_rate(epoch, self.epochs)
        record = {"stage": self.name, "epoch": epoch, "lr": rate, **means, "seconds": seconds}
        record |= self._looked(epoch) | self._checked((epoch + 1) / self.epochs)
        return record | self.method.epoch_record()

    def _looked(self, epoch: int) -> dict[str, float]:
        """Accuracy on the validation images in percent, after those epochs after which it is due."""
        every = -(-self.epochs // LOOKS)
        if self.validation is None or ((epoch + 1) % every and epoch + 1 < self.epochs):
            return {}
        self.method.eval()
        labels = self.validation.labels
        with torch.no_grad(), torch.random.fork_rng():  # the training goes on as if nobody had looked
            predictor = self.method.predictor()
            batches = torch.arange(len(labels)).split(BATCH)
            guesses = [predictor(self.validation.images(b)).argmax(-1).cpu() for b in batches]
        return {"val_accuracy": 100 * (torch.cat(guesses) == labels).double().mean().item()}

    def _checked(self, share: float) -> dict[str, Any]:
        """What the method says of the validation images, when a share of the training is done."""
        if "val" not in self.splits:
            return {}
        self.method.eval()
        with torch.no_grad(), self.processes.autocast():
            return self.method.check(self._val_batches, share)

    def _val_batches(self) -> Iterator[Batch]:
        """All validation images, in order."""
        split, device = self.splits["val"], self.method.encoder.backbone.device
        every = torch.arange(len(split.labels))
        return (split.batch(part, device) for part in every.split(self.method.settings.batch_size))

    def _streams(self, order: torch.Generator) -> dict[str, Iterator[Tensor]]:
        """Batches of positions: one pass over the training images, others as long as they are asked for."""
        size = self.method.settings.batch_size
        return {
            name: shuffled_batches(len(split.labels), size, order, endless=name != "train")
            for name, split in self.splits.items()
        }

    def _set_rate(self, rate: float) -> None:
        for objective in self.objectives:
            if objective.scheduled:
                for group in objective.optimizer.param_groups:
                    group["lr"] = rate

    def _step(self, objective: Objective, positions: Tensor, epoch: int, step: int) -> dict[str, float]:
        """One update of one objective's parameters; a batch is shared out over the processes."""
        processes = self.processes
        mine, share = processes.part(len(positions))
        processes.draw_alike()
        batch = self.splits[objective.split].batch(positions, processes.device, mine)
        objective.optimizer.zero_grad()
        with processes.autocast():
            losses: Losses = objective.loss(batch)
        values = processes.values(losses, share)
        if not math.isfinite(values["loss"]):
            raise UserError(self._not_finite(values["loss"], epoch, step))

        def backward(loss: Tensor, **options: bool) -> None:
            processes.backward(loss, share, [*objective.parameters, *objective.read], **options)

        self.method.backward(losses, backward)
        processes.step(objective, self.options.clip_grad)
        self.method.after_step()
        return values

    def _not_finite(self, loss: float, epoch: int, step: int) -> str:
        kept = (
            f"; the last good checkpoint is kept in {self.file}" if self.file and self.file.exists() else ""
        )
        return (
            f"the loss became {loss} in epoch {epoch + 1}, step {step + 1} of the {self.name} stage: "
            f"lower the learning rate (now {self.method.settings.lr:g}) or train in full precision{kept}"
        )

    # Its checkpoint.

    @property
    def _identity(self) -> str:
        return checkpoint.identity(self.method, self.splits, self.options)

    def _save(self) -> None:
        if self.file is not None and self.processes.first:
            scaler = self.processes.scaler
            checkpoint.save(self.file, self._identity, self.method, self.objectives, scaler, self.history)

    def _load(self) -> None:
        if self.file is not None and self.file.exists():
            scaler = self.processes.scaler
            self.history = checkpoint.load(self.file, self._identity, self.method, self.objectives, scaler)
