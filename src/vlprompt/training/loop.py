"""The training loop, one for all methods.

An epoch depends only on the parameters, the optimisers' state and (seed, stage, epoch): its order
and its augmentation are drawn afresh from these. So a checkpoint after each epoch is enough to go on
after a kill and end with the same weights to the bit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlprompt.errors import UserError
from vlprompt.files import whole_file
from vlprompt.methods.base import Batch, Losses, Method, Objective
from vlprompt.progress import bar

WARMUP_LR = 1e-5
Record = dict[str, Any]
"""What the log keeps of one epoch: stage, epoch, lr, mean losses, seconds, the method's own."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train, whatever the method."""

    seed: int = 1
    """seed of sampling, initial values, order and augmentation"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """mixed precision; normalisations and softmax stay in float32"""
    clip_grad: float | None = None
    """largest norm of the gradient; off by default, as published"""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed}: give a whole number from 0 to {2**32 - 1}")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise UserError(f"clip_grad {self.clip_grad:g}: give a norm above 0, or leave it out")


@dataclass(frozen=True)
class Split:
    """Training or validation images for the loop.

    Args:
        images: positions (b,) -> pixels (b, 3, H, W) or frozen image features (b, E), on the device.
        labels: (N,).
        frozen: positions (b,) -> image features (b, E) without prompts, where the pixels do not change.
        below: positions (b,) and a vision layer -> the hidden states (b, T, D) that enter it without
            prompts, where the pixels do not change.
        made: where they come from and how they are prepared; a checkpoint must agree on it.
    """

    images: Callable[[Tensor], Tensor]
    labels: Tensor
    frozen: Callable[[Tensor], Tensor] | None = None
    below: Callable[[Tensor, int], Tensor] | None = None
    made: str = ""

    def batch(self, positions: Tensor, device: torch.device) -> Batch:
        """The images and labels at some positions."""
        frozen = None if self.frozen is None else partial(self.frozen, positions)
        below = None if self.below is None else partial(self.below, positions)
        return Batch(self.images(positions), self.labels[positions].to(device), frozen, below)


def learning_rates(base: float, epochs: int) -> list[float]:
    """The field's schedule: one epoch at 1e-5, then a cosine from ``base``, stepped once an epoch."""
    decay = [0.5 * base * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs - 1)]
    return [WARMUP_LR, *decay][:epochs]


def make_accelerator(options: TrainOptions) -> Accelerator:
    """An accelerator for these options; one made earlier in this process gives way."""
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    if PartialState().distributed_type.value == "NO":
        PartialState._reset_state()
    accelerator = Accelerator(mixed_precision=options.precision, cpu=options.device == "cpu")
    if options.precision != "no" and not accelerator.native_amp:  # it would be left out without a word
        raise UserError(
            f"precision {options.precision} does not work on '{accelerator.device.type}': give no or bf16"
        )
    return accelerator


def fit(
    method: Method,
    splits: dict[str, Split],
    options: TrainOptions | None = None,
    checkpoints: Path | None = None,
    show: bool = True,
    on_epoch: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Train a method, its first stage first where it has one.

    Args:
        splits: ``train`` and, where the method asks for it, ``val``.
        checkpoints: folder for one file a stage; training goes on from what is there.
        show: progress bars.
        on_epoch: called with the record of every epoch as it ends; what it raises ends the training.

    Returns:
        One record an epoch.

    Raises:
        UserError: no validation images where they are needed; the loss is not finite; a checkpoint
            of other settings or a damaged one.
    """
    options = options or TrainOptions()
    accelerator = make_accelerator(options)
    show = show and accelerator.is_main_process
    history: list[Record] = []
    first = method.first_stage()
    if first is not None:
        history += _Stage("search", first, splits, options, accelerator, checkpoints, show).run(on_epoch)
        torch.manual_seed(options.seed)
        method.inherit(first)
    stage = _Stage("train", method, splits, options, accelerator, checkpoints, show)
    return history + stage.run(on_epoch)


class _Stage:
    """One stage of training: epochs, steps, checkpoints."""

    def __init__(
        self,
        name: str,
        method: Method,
        splits: dict[str, Split],
        options: TrainOptions,
        accelerator: Accelerator,
        checkpoints: Path | None,
        show: bool,
    ):
        self.name, self.method, self.splits = name, method, splits
        self.options, self.accelerator, self.show = options, accelerator, show
        self.file = checkpoints / f"{name}.safetensors" if checkpoints else None
        self.objectives = method.objectives()
        self.epochs: int = method.settings.epochs if self.objectives else 0
        self.optimizers = [accelerator.prepare(o.optimizer) for o in self.objectives]
        self.history: list[Record] = []
        if any(o.split not in splits or not len(splits[o.split].labels) for o in self.objectives):
            raise UserError(
                f"the {name} stage of '{type(method).__name__}' learns on validation images and there are "
                "none: give images of your own for validation, or more images than shots"
            )

    def run(self, on_epoch: Callable[[Record], None] | None = None) -> list[Record]:
        """All epochs that are not done yet."""
        self._load()
        done = len(self.history)
        with bar(f"{self.name:6}", self.epochs, self.show) as progress:
            task = progress.task_ids[0]
            progress.update(task, completed=done)
            for epoch in range(done, self.epochs if not self.method.settled() else done):
                self.history.append(self._epoch(epoch))
                self._save()
                progress.update(task, advance=1, note=f"loss {self.history[-1]['loss']:.3f}")
                if on_epoch is not None:
                    on_epoch(self.history[-1])
                if self.method.settled():
                    break
        return self.history

    def _epoch(self, epoch: int) -> Record:
        """One pass over the training images, every objective once a step."""
        start = time.perf_counter()
        rank = self.accelerator.process_index
        stage_seed = {"search": 1, "train": 2}[self.name]
        torch.manual_seed(((self.options.seed * 4 + stage_seed) * 100_003 + epoch) * 1009 + rank)
        order = torch.Generator().manual_seed((self.options.seed * 4 + stage_seed) * 100_003 + epoch)
        rate = learning_rates(self.method.settings.lr, self.epochs)[epoch]
        for objective in self.objectives:
            if objective.scheduled:
                for group in objective.optimizer.param_groups:
                    group["lr"] = rate
        self.method.train()
        streams = {
            name: _batches(len(split.labels), self.method.settings.batch_size, order, endless=name != "train")
            for name, split in self.splits.items()
        }
        sums: dict[str, float] = {}
        steps = 0
        for positions in streams["train"]:
            for objective, optimizer in zip(self.objectives, self.optimizers, strict=True):
                if epoch < objective.start:
                    continue
                chosen = positions if objective.split == "train" else next(streams[objective.split])
                losses = self._step(objective, optimizer, chosen, epoch, steps)
                for key, value in losses.items():
                    name = key if objective.split == "train" else f"{objective.split}_{key}"
                    sums[name] = sums.get(name, 0.0) + value
            steps += 1
        moved = [p for objective in self.objectives for p in objective.parameters]
        if not all(p.isfinite().all() for p in moved):  # the last step's doing: no loss has shown it
            raise UserError(self._not_finite(math.nan, epoch, steps - 1))
        self.method.after_epoch(epoch, self.epochs)
        means = {key: value / steps for key, value in sums.items()}
        seconds = time.perf_counter() - start
        record = {"stage": self.name, "epoch": epoch, "lr": rate, **means, "seconds": seconds}
        return record | self.method.epoch_record()

    def _step(
        self, objective: Objective, optimizer: Any, positions: Tensor, epoch: int, step: int
    ) -> dict[str, float]:
        """One update of one objective's parameters; a batch is shared out over the processes."""
        world = self.accelerator.num_processes
        mine, share = positions, 1.0
        if world > 1 and len(positions) >= world:
            mine = positions.tensor_split(world)[self.accelerator.process_index]
            share = len(mine) * world / len(positions)
        batch = self.splits[objective.split].batch(mine, self.method.encoder.backbone.device)
        optimizer.zero_grad()
        with self._drawn_alike(objective, epoch, step), self.accelerator.autocast():
            losses: Losses = objective.loss(batch)
        values = self._values(losses, share)
        if not math.isfinite(values["loss"]):
            raise UserError(self._not_finite(values["loss"], epoch, step))

        def backward(loss: Tensor, **options: bool) -> None:
            self.accelerator.backward(loss * share, **options)
            for parameter in objective.parameters if world > 1 else ():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

        self.method.backward(losses, backward)
        if self.options.clip_grad is not None:
            self.accelerator.clip_grad_norm_(objective.parameters, self.options.clip_grad)
        optimizer.step()
        return values

    @contextmanager
    def _drawn_alike(self, objective: Objective, epoch: int, step: int) -> Iterator[None]:
        """In all processes a loss draws the same numbers: it is one loss, of a batch that is shared out."""
        if self.accelerator.num_processes == 1:
            yield
            return
        device = self.accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(
                crc32(repr((self.options.seed, self.name, objective.split, epoch, step)).encode())
            )
            yield

    def _values(self, losses: Losses, share: float) -> dict[str, float]:
        """Losses of the whole batch: the same in every process, so that all stop where one would."""
        values = {key: float(value.detach()) for key, value in losses.items()}
        if self.accelerator.num_processes == 1:
            return values
        mine = torch.tensor([*values.values()], dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(mine * share, "mean").tolist(), strict=True))

    def _not_finite(self, loss: float, epoch: int, step: int) -> str:
        kept = (
            f"; the last good checkpoint is kept in {self.file}" if self.file and self.file.exists() else ""
        )
        return (
            f"the loss became {loss} in epoch {epoch + 1}, step {step + 1} of the {self.name} stage: "
            f"lower the learning rate (now {self.method.settings.lr:g}) or train in full precision{kept}"
        )

    # Checkpoints: tensors of the method and of its optimisers, all else as JSON, in one file.

    def _identity(self) -> str:
        """What a checkpoint must agree on to be gone on from."""
        what = {
            "method": type(self.method).__name__,
            "settings": dataclasses.asdict(self.method.settings),
            "backbone": self.method.encoder.backbone.revision,
            "classes": self.method.classnames,
            "templates": self.method.templates,
            "options": dataclasses.asdict(self.options) | {"device": ""},
            "images": {name: split.made for name, split in self.splits.items()},
            "labels": {name: crc32(split.labels.numpy().tobytes()) for name, split in self.splits.items()},
        }
        return json.dumps(what, sort_keys=True)

    def _save(self) -> None:
        if self.file is None or not self.accelerator.is_main_process:
            return
        tensors = {f"method.{key}": value for key, value in self.method.state_dict().items()}
        for index, objective in enumerate(self.objectives):
            for parameter, state in objective.optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    if value is not None:
                        tensors[f"optimizer.{index}.{parameter}.{key}"] = torch.as_tensor(value)
        scaler = self.accelerator.scaler
        metadata = {
            "identity": self._identity(),
            "history": json.dumps(self.history),
            "scaler": json.dumps(scaler.state_dict() if scaler else {}),
        }
        content = save({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, metadata)
        with whole_file(self.file) as beside:
            beside.write_bytes(content)

    def _load(self) -> None:
        if self.file is None or not self.file.exists():
            return
        try:
            with safe_open(self.file, "pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"checkpoint '{self.file}' is damaged ({error}): delete it to start anew"
            ) from error
        if metadata.get("identity") != self._identity():
            raise UserError(
                f"checkpoint '{self.file}' belongs to a run with other settings, classes or images: "
                "give another output folder, or delete it to start anew"
            )
        own = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
        self.method.load_state_dict(own)
        for index, objective in enumerate(self.objectives):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{index}."):
                    parameter, name = key.split(".", 3)[2:]
                    state.setdefault(int(parameter), {})[name] = value
            groups = objective.optimizer.state_dict()["param_groups"]
            objective.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if self.accelerator.scaler and (scaler := json.loads(metadata["scaler"])):
            self.accelerator.scaler.load_state_dict(scaler)
        self.history = json.loads(metadata["history"])


def _batches(count: int, size: int, order: torch.Generator, endless: bool) -> Iterator[Tensor]:
    """Shuffled batches of positions; a last short one is left out unless it is the only one."""
    while True:
        batches: Sequence[Tensor] = torch.randperm(count, generator=order).split(size)
        yield from (b for b in batches if len(b) == min(size, count))
        if not endless:
            return
