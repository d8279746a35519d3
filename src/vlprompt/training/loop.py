"""The training loop, one for all methods: stage after stage, each with its checkpoint.

An epoch depends only on the parameters, the optimisers' state and (seed, stage, epoch): its order
and its augmentation are drawn afresh from these. So a checkpoint after each epoch is enough to go on
after a kill and end with the same weights to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vlprompt.methods.base import Method
from vlprompt.training.imageset import ImageSet
from vlprompt.training.options import TrainOptions
from vlprompt.training.processes import Processes
from vlprompt.training.stages import EpochRecord, StageRun


def fit(
    method: Method,
    splits: dict[str, ImageSet],
    options: TrainOptions | None = None,
    checkpoints: Path | None = None,
    show: bool = True,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    validation: ImageSet | None = None,
) -> list[EpochRecord]:
    """Train a method, one of its stages after the other.

    Args:
        splits: ``train`` and, where the method asks for it, ``val``.
        checkpoints: folder for one file a stage; training goes on from what is there.
        show: progress bars.
        on_epoch: called with the record of every epoch as it ends; what it raises ends the training.
        validation: images on which the accuracy is recorded after some epochs.

    Returns:
        One record an epoch.

    Raises:
        UserError: no validation images where they are needed; the loss is not finite; a checkpoint
            of other settings or a damaged one.
    """
    options = options or TrainOptions()
    processes = Processes(options, method.encoder.backbone.device)
    history: list[EpochRecord] = []
    stages = method.stages()
    for index, stage in enumerate(stages):
        if index:
            torch.manual_seed(options.seed)
        stage.enter()
        seed = options.seed * 4 + 2 - (len(stages) - 1 - index)  # of its order and its draws, epoch by epoch
        show = show and processes.first
        run = StageRun(stage, splits, options, seed, processes, checkpoints, show, validation)
        history += run.run(on_epoch)
        stage.method.finish()
    return history
