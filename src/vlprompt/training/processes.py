"""What the processes of one training do together; a single process is the plain case."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from vlprompt.errors import UserError
from vlprompt.methods.base import Losses, Objective
from vlprompt.training.options import TrainOptions

MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What training computes in, by the name of its precision; by all others in what the backbone is in."""


class Processes:
    """The processes of one training: each takes its part of every batch, all end with the same numbers.

    Args:
        device: of this process.
    """

    def __init__(self, options: TrainOptions, device: torch.device):
        self.device, self.mixed = device, MIXED.get(options.precision)
        half = self.mixed == torch.float16
        if half and device.type == "cpu":
            raise UserError("precision fp16 does not work on 'cpu': give no or bf16")
        several = os.environ.get("WORLD_SIZE", "1") != "1"  # alone it is no matter of ours
        try:
            self.state = PartialState(cpu=several and device.type == "cpu")
        except (ValueError, RuntimeError) as error:
            raise UserError(f"torchrun's environment is not whole ({error}): start by torchrun") from error
        self.scaler: Any = torch.amp.GradScaler(device.type, enabled=half)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.state.is_main_process

    @property
    def count(self) -> int:
        """How many there are."""
        return self.state.num_processes

    def part(self, count: int) -> tuple[slice, float]:
        """This process's part of a batch, and its mean loss's weight in the mean over all."""
        if self.count == 1 or count < self.count:
            return slice(count), 1.0
        mine = torch.arange(count).tensor_split(self.count)[self.state.process_index].tolist()
        return slice(mine[0], mine[-1] + 1), len(mine) * self.count / count

    def draw_alike(self) -> None:
        """From here on all processes draw the same numbers, those of the first."""
        if self.count == 1:
            return
        torch.set_rng_state(self._of_first(torch.get_rng_state()))
        if self.device.type == "cuda":
            state = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self._of_first(state), self.device)

    def _of_first(self, state: Tensor) -> Tensor:
        return broadcast(state.to(self.device)).cpu()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that losses are computed in."""
        return torch.autocast(self.device.type, self.mixed) if self.mixed else nullcontext()

    def values(self, losses: Losses, share: float) -> dict[str, float]:
        """Losses of the whole batch: the same in every process, so that all stop where one would."""
        each = torch.stack([value.detach() for value in losses.values()])  # (number of losses,)
        wide = each if each.device.type == "mps" else each.double()  # which has no float64
        if self.count > 1:
            wide = reduce(wide * share, "mean")
        return dict(zip(losses, wide.tolist(), strict=True))  # all that a step reads from the device

    def backward(
        self, loss: Tensor, share: float, parameters: Iterable[nn.Parameter], **options: bool
    ) -> None:
        """Gradients of the whole batch's mean loss, in every process."""
        self.scaler.scale(loss * share).backward(**options)
        for parameter in parameters if self.count > 1 else ():
            if parameter.grad is not None:
                parameter.grad = reduce(parameter.grad, "mean")

    def step(self, objective: Objective, clip: float | None) -> None:
        """Move an objective's parameters; no other's gradients are looked at.

        Args:
            clip: largest norm of the gradient.
        """
        if clip is not None:
            self.scaler.unscale_(objective.optimizer)
            nn.utils.clip_grad_norm_(objective.parameters, clip)
        self.scaler.step(objective.optimizer)
        self.scaler.update()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and for the libraries that scikit-learn computes with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
