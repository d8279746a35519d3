"""``vlprompt search``: the context length of every layer, found on labelled images and written as a file.

Whether the search helped is measured and not assumed: the found lengths are trained, and beside them
lengths drawn at random with the same number of tokens.
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods.dpl import Settings
from vlprompt.methods.lengths import Lengths, agreed, random_lengths
from vlprompt.reports.training import Run, write_report


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Where to search, and what to write."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """images: a folder of class folders, a CSV file, toy:TASK, a benchmark's name, or hub:OWNER/NAME"""
    out: Path = Path("lengths.json")
    """file of the found lengths; a page of the search is written beside it"""
    model: str = "toy"
    """frozen backbone: 'toy', a local folder, or a hub id"""
    shots: int | None = 16
    """training images a class; None takes all"""
    root: Path | None = None
    """folder of the benchmark's data sets"""
    preset: str = ""
    """another setting of DPL: 'paper' is the search as published"""
    seeds: tuple[int, ...] = (1,)
    """several searches vote for the length of each layer"""
    control: int = 0
    """train the found lengths, and so many drawn at random with the same number of tokens"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    json: bool = False
    """print one JSON object"""


@dataclass(frozen=True)
class Found:
    """What a search found, and what it cost."""

    lengths: Lengths
    history: list[dict[str, Any]]
    seconds: float
    steps: int
    """batches of training images"""


def run(options: SearchOptions, settings: Settings, argv: Sequence[str]) -> dict[str, Any]:
    """Search with every seed, write the lengths and the page, print what was found."""
    pool = data.load(options.data, options.root)
    samples = {s: data.few_shot(pool, options.shots, s, strict=True) for s in options.seeds}
    found = {s: search(sample, settings, options, s) for s, sample in samples.items()}
    runs = [f.lengths for f in found.values()]
    lengths = runs[0] if len(runs) == 1 else agreed(runs)
    lengths.save(options.out)
    seed, sample = next(iter(samples.items()))
    accuracy = measure(sample, lengths, settings, options, seed) if options.control else {}
    page = options.out.with_suffix(".html")
    pages = [
        Run("DPL search", "dpl", s, {}, f.history, f.lengths, f.seconds, sample.classnames)
        for s, f in found.items()
    ]
    command = shlex.join(["vlprompt", "search", *argv])
    write_report(page, pages, title=f"Search on {pool.name}", dataset=pool.name, command=command)
    if not options.json:
        _print(found, lengths, accuracy, options.out, page)
    return {
        "lengths": asdict(lengths),
        "seconds": [round(f.seconds, 1) for f in found.values()],
        "steps": [f.steps for f in found.values()],
        "accuracy": accuracy,
        "out": str(options.out),
        "report": str(page),
    }


def search(dataset: Dataset, settings: Settings, options: SearchOptions, seed: int) -> Found:
    """The search stage alone."""
    start = time.perf_counter()
    changes = asdict(settings) | {"epochs": 0, "text_lengths": (), "vision_lengths": ()}
    classifier = _classifier(changes, options, seed).fit_dataset(dataset)
    history = classifier.history_
    a_epoch = max(len(dataset.train) // settings.batch_size, 1)
    seconds = time.perf_counter() - start
    lengths: Any = classifier.method_.lengths
    return Found(lengths, history, seconds, len(history) * a_epoch)


def measure(
    dataset: Dataset, lengths: Lengths, settings: Settings, options: SearchOptions, seed: int
) -> dict[str, Any]:
    """Test accuracy of the found lengths, and of random ones with the same number of tokens.

    Where the found ones are the longest everywhere there are no others with as many tokens, and no control.
    """

    def trained(candidate: Lengths) -> float:
        given = {"text_lengths": candidate.text, "vision_lengths": candidate.vision, "inherit": False}
        classifier = _classifier(asdict(settings) | given, options, seed).fit_dataset(dataset)
        return classifier.evaluate(dataset.test)["accuracy"]

    draw, layers = random.Random(seed), (len(lengths.text), len(lengths.vision))
    longest = max(settings.text_max, settings.vision_max)
    count = options.control if lengths.total < sum(layers) * longest else 0
    controls = [random_lengths(draw, layers, longest, lengths.total) for _ in range(count)]
    return {"found": trained(lengths), "random": [trained(c) for c in controls]}


def _classifier(changes: dict[str, Any], options: SearchOptions, seed: int) -> PromptClassifier:
    return PromptClassifier(
        "dpl", options.model, changes, seed=seed, device=options.device, verbose=not options.json
    )


def _print(
    found: dict[int, Found], lengths: Lengths, accuracy: dict[str, Any], out: Path, page: Path
) -> None:
    console = Console()
    for seed, one in found.items():
        console.print(lengths_table(one.lengths, f"Searched lengths and their confidence, seed {seed}"))
        console.print(f"{len(one.history)} epochs, {one.steps} steps, {one.seconds:.0f} s")
    if len(found) > 1:
        console.print(lengths_table(lengths, f"Voted by {len(found)} seeds, with the share of the votes"))
    if accuracy:
        others = ", ".join(f"{a:.1f}" for a in accuracy["random"])
        control = f"no other lengths have as many tokens ({lengths.total}), so there is no control"
        if others:
            mean = np.mean(accuracy["random"])
            control = f"with random ones of the same {lengths.total} tokens {mean:.1f}% ({others})"
        console.print(f"test accuracy with the found lengths {accuracy['found']:.1f}%, {control}")
    console.print(f"lengths in {out}, report in {page}", markup=False)


def lengths_table(lengths: Lengths, title: str) -> Table:
    """Length and confidence of every layer, a row a branch."""
    layers = max(len(lengths.text), len(lengths.vision))
    table = Table("branch", *(f"layer {i + 1}" for i in range(layers)), title=title)
    for branch, chosen, confidence in (
        ("text", lengths.text, lengths.text_confidence),
        ("vision", lengths.vision, lengths.vision_confidence),
    ):
        table.add_row(branch, *(f"{n} ({p:.2f})" for n, p in zip(chosen, confidence, strict=True)))
    return table
