"""The main job on real data without a download: zero-shot, CoOp and DPL on handwritten digits.

DPL is shown beside as many tokens that nothing placed: spread evenly, and drawn at random.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import check_targets
from vlprompt.jobs.fit import fit
from vlprompt.methods.lengths import Lengths, random_lengths, uniform_lengths
from vlprompt.progress import track
from vlprompt.reports.training import Run, write_report
from vlprompt.training.options import check_seeds
from vlprompt.training.processes import one_thread

DATA = "toy:digits"
REPORT = "report.html"
LAYERS = 4
"""Of each branch of the toy backbone."""
BUDGET = 0.5
"""Of the longest contexts, in all runs of DPL's prompts."""
DPL: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "epochs": 40, "text_max": 12, "vision_max": 12}
VIEWS = 10
"""Augmented views of each image for methods whose image features are constants."""


@dataclass(frozen=True)
class Entry:
    """A row of the demo.

    Args:
        settings: what it changes in the method's settings.
        control: how tokens are placed where DPL does not search.
    """

    title: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    control: Literal["", "uniform", "random"] = ""


ENTRIES = {
    "zeroshot": Entry("Zero-shot CLIP", "zeroshot"),
    "coop": Entry("CoOp", "coop"),
    "dpl-random": Entry("DPL's prompts, placed at random", "dpl", DPL, "random"),
    "dpl-even": Entry("DPL's prompts, spread evenly", "dpl", DPL, "uniform"),
    "dpl": Entry("DPL", "dpl", DPL | {"budget": BUDGET}),
}
"""Rows of the demo by their folder's name; settings keep it within five minutes on two cores."""


def demo(
    out: Path,
    seeds: Sequence[int] = (1,),
    shots: int = 16,
    force: bool = False,
    entries: Mapping[str, Entry] = ENTRIES,
) -> list[Run]:
    """Fit every entry with every seed; tuned prompts and a report of all are written below ``out``.

    Each runs on one thread, so that the numbers do not depend on how many there are.

    Raises:
        UserError: see the message.
    """
    check_seeds(seeds)
    check_targets(out / REPORT, force=force)
    pool = data.load(DATA)
    command = shlex.join(["vlprompt", "demo", "--seeds", *map(str, seeds), "--shots", str(shots)])
    longest_first = sorted(entries, key=lambda name: not entries[name].settings)
    with ProcessPoolExecutor(2, get_context("spawn")) as two:
        jobs = {}
        for seed in seeds:
            dataset = data.few_shot(pool, shots, seed, strict=True)
            for name in longest_first:
                target = out / (name if len(seeds) == 1 else f"{name}-seed{seed}")
                jobs[seed, name] = two.submit(_fit, entries[name], dataset, seed, target, command, force)
        done = {key: job.result() for key, job in track(jobs.items(), "demo", len(jobs))}
    runs = [done[seed, name] for seed in seeds for name in entries]
    write_report(out / REPORT, runs, title="Handwritten digits", dataset=DATA, command=command)
    return runs


def _fit(entry: Entry, dataset: Dataset, seed: int, target: Path, command: str, force: bool) -> Run:
    settings = entry.settings | _placed(entry.control, seed)
    classifier = PromptClassifier(entry.method, settings=settings, augment="gentle", views=VIEWS, seed=seed)
    with one_thread():
        return replace(fit(classifier, dataset, target, command=command, force=force), title=entry.title)


def _placed(control: str, seed: int) -> dict[str, Any]:
    """Lengths of a control: as many tokens as the search leaves; nothing for the search itself."""
    if not control:
        return {}
    longest = Lengths((DPL["text_max"],) * LAYERS, (DPL["vision_max"],) * LAYERS)
    total = round(BUDGET * longest.total)
    even = control == "uniform"
    found = uniform_lengths(longest, total) if even else random_lengths(random.Random(seed), longest, total)
    return {"text_lengths": found.text, "vision_lengths": found.vision}
