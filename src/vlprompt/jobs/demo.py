"""The main job on real data without a download: zero-shot, CoOp and DPL on handwritten digits."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vlprompt import data
from vlprompt.estimator import artifact
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.jobs.search import lengths_table
from vlprompt.methods.lengths import Lengths
from vlprompt.reports.training import Run, write_report
from vlprompt.training.processes import one_thread

DATA = "toy:digits"
QUICK = {"optimizer": "adamw", "lr": 0.01, "epochs": 60}
SEARCH = {"search_epochs": 24, "warmup": 0.75, "alpha_lr": 0.03, "text_max": 12, "vision_max": 12}
METHODS: dict[str, dict[str, Any]] = {
    "zeroshot": {},
    "coop": {},
    "dpl": QUICK | SEARCH,
}
"""Methods in the demo and what it changes in their settings, to stay within five minutes on two cores; the
last takes longest."""
VIEWS = 10
"""Augmented views of each image for methods whose image features are constants."""


def run(out: Path, seeds: Sequence[int], shots: int, as_json: bool) -> None:
    """Fit every method with every seed, write tuned prompts and a report below ``out``, print a table.

    Each method runs on one thread, so that the numbers do not depend on how many there are.
    """
    runs: list[Run] = []
    pool = data.load(DATA)
    *others, longest = METHODS
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:  # the short ones, next to the longest
        for seed in seeds:
            dataset = data.few_shot(pool, shots, seed, strict=True)
            targets = {m: out / (m if len(seeds) == 1 else f"{m}-seed{seed}") for m in METHODS}
            short = [beside.submit(_fit, dataset, m, seed, targets[m], False) for m in others]
            last = _fit(dataset, longest, seed, targets[longest], True)
            runs += [*(done.result() for done in short), last]
    report = out / "report.html"
    command = shlex.join(["vlprompt", "demo", "--seeds", *map(str, seeds), "--shots", str(shots)])
    write_report(report, runs, title="Handwritten digits", dataset=DATA, command=command)
    _print(runs, report, out, as_json)


def _fit(dataset: data.Dataset, method: str, seed: int, target: Path, verbose: bool) -> Run:
    classifier = PromptClassifier(
        method, settings=METHODS[method], augment="gentle", views=VIEWS, seed=seed, verbose=verbose
    )
    with one_thread(), artifact.folder_beside(target) as beside:
        start = time.perf_counter()
        classifier.fit_dataset(dataset, beside / "checkpoints")
        seconds = time.perf_counter() - start
        measured = {"test": classifier.evaluate(dataset.test)}
        classifier.save_into(beside, measured)
        artifact.drop_checkpoints(beside)
    fitted = classifier.method_
    lengths = getattr(fitted, "lengths", None)
    return Run(
        fitted.title, method, seed, measured, classifier.history_, lengths, seconds, classifier.classnames_
    )


def _print(runs: Sequence[Run], report: Path, out: Path, as_json: bool) -> None:
    accuracy = {
        m: [r.measured["test"]["accuracy"] for r in runs if r.method == m]
        for m in dict.fromkeys(r.method for r in runs)
    }
    if as_json:
        print(json.dumps({"accuracy": accuracy, "report": str(report)}))
        return
    console = Console()
    table = Table("method", "test accuracy", "seeds", title="Real handwritten digits, toy backbone")
    for method, values in accuracy.items():
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        table.add_row(method, f"{np.mean(values):.1f}%{spread}", " ".join(f"{v:.1f}" for v in values))
    console.print(table)
    for r in runs:
        if isinstance(r.lengths, Lengths):
            console.print(lengths_table(r.lengths, f"Searched lengths and their confidence, seed {r.seed}"))
    console.print(f"tuned prompts in {out}, report in {report}", markup=False)
