"""The main job on real data without a download: zero-shot, CoOp and DPL on handwritten digits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import check_targets
from vlprompt.jobs.fit import fit
from vlprompt.reports.training import Run, write_report
from vlprompt.training.processes import one_thread

DATA = "toy:digits"
REPORT = "report.html"
QUICK = {"optimizer": "adamw", "lr": 0.01, "epochs": 60}
SEARCH = {"search_epochs": 24, "warmup": 0.75, "alpha_lr": 0.03, "text_max": 12, "vision_max": 12}
METHODS: dict[str, dict[str, Any]] = {
    "zeroshot": {},
    "coop": {},
    "dpl": QUICK | SEARCH,
}
"""Methods in the demo and what it changes in their settings, to stay within five minutes on two cores."""
VIEWS = 10
"""Augmented views of each image for methods whose image features are constants."""


def demo(
    out: Path,
    seeds: Sequence[int] = (1,),
    shots: int = 16,
    force: bool = False,
    methods: Mapping[str, dict[str, Any]] = METHODS,
) -> list[Run]:
    """Fit every method with every seed; tuned prompts and a report of all are written below ``out``.

    Each method runs on one thread, so that the numbers do not depend on how many there are.

    Args:
        methods: settings that are changed, by method; the last takes longest.

    Raises:
        UserError: see the message.
    """
    check_targets(out / REPORT, force=force)
    runs: list[Run] = []
    pool = data.load(DATA)
    command = shlex.join(["vlprompt", "demo", "--seeds", *map(str, seeds), "--shots", str(shots)])
    *others, longest = methods
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:  # the short ones, next to the longest
        for seed in seeds:
            dataset = data.few_shot(pool, shots, seed, strict=True)
            targets = {m: out / (m if len(seeds) == 1 else f"{m}-seed{seed}") for m in methods}
            short = [
                beside.submit(_fit, m, methods[m], dataset, seed, targets[m], command, force) for m in others
            ]
            last = _fit(longest, methods[longest], dataset, seed, targets[longest], command, force, True)
            runs += [*(done.result() for done in short), last]
    write_report(out / REPORT, runs, title="Handwritten digits", dataset=DATA, command=command)
    return runs


def _fit(
    method: str,
    settings: dict[str, Any],
    dataset: Dataset,
    seed: int,
    target: Path,
    command: str,
    force: bool,
    verbose: bool = False,
) -> Run:
    classifier = PromptClassifier(
        method, settings=settings, augment="gentle", views=VIEWS, seed=seed, verbose=verbose
    )
    with one_thread():
        return fit(classifier, dataset, target, command=command, force=force)
