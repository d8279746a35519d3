"""What the processes of one training do together; a single process is the plain case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from zlib import crc32

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from vlprompt.errors import UserError
from vlprompt.methods.base import Losses
from vlprompt.training.options import TrainOptions


def make_accelerator(options: TrainOptions) -> Accelerator:
    """An accelerator for these options; one made earlier in this process gives way."""
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    if PartialState().distributed_type.value == "NO":
        PartialState._reset_state()
    mixed = "no" if options.precision == "auto" else options.precision
    accelerator = Accelerator(mixed_precision=mixed, cpu=options.device == "cpu")
    if mixed != "no" and not accelerator.native_amp:  # it would be left out without a word
        raise UserError(
            f"precision {options.precision} does not work on '{accelerator.device.type}': give no or bf16"
        )
    return accelerator


class Processes:
    """The processes of one training: each takes its part of every batch, all end with the same numbers."""

    def __init__(self, options: TrainOptions):
        self.accelerator = make_accelerator(options)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.accelerator.is_main_process

    @property
    def count(self) -> int:
        """How many there are."""
        return self.accelerator.num_processes

    def part(self, positions: Tensor) -> tuple[Tensor, float]:
        """This process's positions of a batch (b,), and their mean loss's weight in the mean over all."""
        if self.count == 1 or len(positions) < self.count:
            return positions, 1.0
        mine = positions.tensor_split(self.count)[self.accelerator.process_index]
        return mine, len(mine) * self.count / len(positions)

    @contextmanager
    def drawing_alike(self, *key: object) -> Iterator[None]:
        """In all processes a loss draws the same numbers: it is one loss, of a batch that is shared out."""
        if self.count == 1:
            yield
            return
        device = self.accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(crc32(repr(key).encode()))
            yield

    def values(self, losses: Losses, share: float) -> dict[str, float]:
        """Losses of the whole batch: the same in every process, so that all stop where one would."""
        values = {key: float(value.detach()) for key, value in losses.items()}
        if self.count == 1:
            return values
        mine = torch.tensor([*values.values()], dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(mine * share, "mean").tolist(), strict=True))

    def backward(
        self, loss: Tensor, share: float, parameters: Iterable[nn.Parameter], **options: bool
    ) -> None:
        """Gradients of the whole batch's mean loss, in every process."""
        self.accelerator.backward(loss * share, **options)
        for parameter in parameters if self.count > 1 else ():
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")


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
