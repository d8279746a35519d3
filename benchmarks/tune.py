"""Choose settings without a test image: trained as in the built-in benchmark, measured on what it leaves.

    python benchmarks/tune.py --tasks digits,shapes --seeds 4 ivlp dpl 'dpl:{"lr": 0.02}'

Each word is a method, with changes to the suite's settings as JSON after a colon. It is measured on the
training and validation images of the task that its few-shot sample does not hold; the test images are
thrown away as soon as the task is loaded. ``--protocol base-to-new`` prints base, new and their harmonic
mean, few-shot the accuracy. ``--rates 0.3,1,3`` tries each word with the suite's learning rate times each:
the same effort for every method.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from vlprompt import data
from vlprompt.benchmark.suites import SUITES
from vlprompt.dataset import Dataset
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import get_method
from vlprompt.training.processes import one_thread

SHOTS = 16
SUITE = SUITES["toy"]


def sample(task: str, seed: int) -> Dataset:
    """A few-shot sample whose test images are the training and validation images that it leaves."""
    return held_out(data.load(SUITE.prefix + task), seed)


def held_out(dataset: Dataset, seed: int) -> Dataset:
    """The same of a data set."""
    pool = replace(dataset, test=[])
    few = data.few_shot(replace(pool, test=pool.val), SHOTS, seed)
    taken = {id(item) for item in (*few.train, *few.val)}
    return replace(few, test=[item for item in (*pool.train, *pool.val) if id(item) not in taken])


def run(word: str, task: str, seed: int, protocol: str) -> dict[str, Any]:
    """Train one configuration and measure it."""
    method, _, changes = word.partition(":")
    settings = SUITE.settings_for(method, task) | (json.loads(changes) if changes else {})
    dataset = sample(task, seed)
    base = dataset if protocol == "few-shot" else data.subsample(dataset, "base")
    with one_thread():
        classifier = PromptClassifier(method, settings=settings, augment=SUITE.augment, seed=seed)
        classifier.fit_dataset(base)
        accuracy = {"all" if base is dataset else "base": classifier.evaluate(base.test)["accuracy"]}
        if base is not dataset:
            new = data.subsample(dataset, "new")
            classifier.set_classes(new.classnames, new.templates)
            accuracy["new"] = classifier.evaluate(new.test)["accuracy"]
    loss = classifier.history_[-1]["loss"] if classifier.history_ else float("nan")
    lengths = getattr(classifier.method_, "lengths", None)
    found = {"text": lengths.text, "vision": lengths.vision} if lengths else {}
    return {"word": word, "task": task, "seed": seed, "accuracy": accuracy, "loss": loss} | found


def at_rates(word: str, rates: Sequence[float]) -> list[str]:
    """A word with each of these multiples of its learning rate."""
    method, _, text = word.partition(":")
    changes = json.loads(text) if text else {}
    usual = get_method(method).settings_for(SHOTS, **SUITE.settings_for(method, "") | changes)
    return [f"{method}:{json.dumps(changes | {'lr': float(f'{usual.lr * rate:.3g}')})}" for rate in rates]


def table(records: Sequence[dict[str, Any]]) -> str:
    """A line a configuration: the mean, then every task (mean over seeds)."""
    lines = []
    for word in dict.fromkeys(r["word"] for r in records):
        own = [r for r in records if r["word"] == word]
        means = {k: np.mean([r["accuracy"][k] for r in own]) for k in own[0]["accuracy"]}
        if "new" in means:  # of the averages, as in papers and in the benchmark's report
            means["H"] = 2 / (1 / means["base"] + 1 / means["new"])
        parts = []
        for task in sorted({r["task"] for r in own}):
            runs = [r for r in own if r["task"] == task]
            numbers = "/".join(
                f"{np.mean([r['accuracy'][k] for r in runs]):.1f}" for k in runs[0]["accuracy"]
            )
            parts.append(f"{task} {numbers} ({np.mean([r['loss'] for r in runs]):.2f})")
        lines.append(
            f"{word} n={len(own)}: {' '.join(f'{k} {v:.1f}' for k, v in means.items())} | {', '.join(parts)}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all configurations and print the table; every run is appended to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("configurations", nargs="+", help='METHOD or METHOD:{"name": value}')
    parser.add_argument("--tasks", default=",".join(SUITE.datasets))
    parser.add_argument("--seeds", default="4")
    parser.add_argument("--protocol", choices=("few-shot", "base-to-new"), default="few-shot")
    parser.add_argument("--rates", default="", help="multiples of the learning rate, such as 0.3,1,3")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rates = [float(rate) for rate in arguments.rates.split(",") if rate]
    words = [w for word in arguments.configurations for w in (at_rates(word, rates) if rates else [word])]
    records = []
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        jobs = [
            pool.submit(run, word, task, int(seed), arguments.protocol)
            for seed in arguments.seeds.split(",")
            for task in arguments.tasks.split(",")
            for word in words
        ]
        for job in jobs:
            records.append(job.result())
            if arguments.out:
                with arguments.out.open("a") as opened:
                    opened.write(json.dumps(records[-1]) + "\n")
            print(json.dumps(records[-1]), flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
