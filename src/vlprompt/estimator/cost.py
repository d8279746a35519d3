"""What a training will cost, before it is begun: from a few measured steps on a few of its images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil
import torch
from sklearn.base import clone

from vlprompt.dataset import Dataset
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.estimator.fitting import augmentation, make_splits, set_aside, what_is_faster
from vlprompt.methods import get_method
from vlprompt.methods.base import Method
from vlprompt.training.frozen import image_features
from vlprompt.training.imageset import steps_in_epoch
from vlprompt.training.processes import Processes
from vlprompt.training.stages import StageRun

EPOCHS = 2
"""Measured of each stage; the faster counts, for the first has costs of its own."""
BATCHES = 3
"""Of an epoch that is measured."""
IMAGES = 16
"""Encoded to see how long one takes."""


@dataclass(frozen=True)
class Cost:
    """What a training will take.

    Args:
        steps: of all stages.
        seconds: of encoding, training and testing; a rough estimate.
        memory: bytes of the process, or of the GPU, after the measured steps.
        faster: what would be faster, in words; empty where nothing would.
    """

    steps: int
    seconds: float
    memory: int
    faster: str


def estimate(classifier: PromptClassifier, dataset: Dataset) -> Cost:
    """Train a copy of the classifier for a few steps, and say what all would take.

    Raises:
        UserError: whatever ``fit_dataset`` would refuse.
    """
    probe = clone(classifier).set_params(verbose=False)
    if classifier.views:
        probe.set_params(views=1)
    with torch.random.fork_rng():
        probe._start(get_method(probe.method, files=True), dataset)
        method = probe.method_
        augment = augmentation(probe.augment, probe.model)
        images = [item.image for item in (*dataset.train, *dataset.test)[:IMAGES]]
        an_image = _seconds(lambda: image_features(method.encoder, images)) / len(images)
        views = classifier.views if augment != "none" and classifier.views else 1
        encoded = 0 if method.has_visual_prompts or (augment != "none" and not classifier.views) else views
        seconds = an_image * (len(dataset.train) * encoded + len(dataset.test))
        seconds += _seeing(probe, dataset)
        steps, stepping = _steps(probe, dataset) if method.trains else (0, 0.0)
    return Cost(steps, seconds + stepping, _memory(), what_is_faster(method, augment, classifier.views))


def _steps(probe: PromptClassifier, dataset: Dataset) -> tuple[int, float]:
    """Steps of all stages, and their seconds."""
    method = probe.method_
    size = method.settings.batch_size
    train = list(dataset.train)[: BATCHES * size]
    few = replace(dataset, train=train, val=list(dataset.val)[: BATCHES * size])
    if method.needs_validation and not few.val:
        train, val = set_aside(train, 1)
        few = replace(few, train=train, val=val)
    options, augment = probe._options(), augmentation(probe.augment, probe.model)
    splits = make_splits(method, few, augment, probe.views, validate=False, show=False)
    device = method.encoder.backbone.device
    steps, seconds = 0, 0.0
    for stage in method.stages():
        stage.enter()
        run = StageRun(stage, splits, options, options.seed, Processes(options, device), None, False)
        all_steps = run.epochs * steps_in_epoch(len(dataset.train), stage.method.settings.batch_size)
        run.epochs = min(run.epochs, EPOCHS)
        epochs = run.run()
        if epochs:
            seconds += all_steps * min(epoch["seconds"] for epoch in epochs) / run.steps
            steps += all_steps
        stage.method.finish()
    return steps, seconds


def _seeing(probe: PromptClassifier, dataset: Dataset) -> float:
    """Seconds of what a method makes of its images at once; it grows with their number."""
    method = probe.method_
    if type(method).see is Method.see:
        return 0.0
    few, _ = set_aside(dataset.train, 0)
    few = few[:: max(len(few) // (IMAGES * len(dataset.classnames)), 1)]
    features = image_features(method.encoder, [item.image for item in few])
    labels = torch.tensor([item.label for item in few], device=features.device)
    return _seconds(lambda: method.see(features, labels)) * len(dataset.train) / len(few)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _memory() -> int:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss
