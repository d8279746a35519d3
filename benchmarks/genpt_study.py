"""GenPT and what it is compared with, at equal steps: many trainings at once on features computed once.

    python benchmarks/genpt_study.py coop kgcoop genpt 'genpt:{"augmentation": "none"}'
    python benchmarks/genpt_study.py --split test --seeds 1,2,3 coop kgcoop genpt
    python benchmarks/genpt_study.py --split test --protocol transfer --seeds 1 coop kgcoop genpt

Each word is a method without visual prompts, with changes to the suite's settings as JSON after a colon.
``held-out`` measures on training and validation images that the few-shot sample leaves, ``test`` on test
images. ``base-to-new`` trains on the first half of each task's classes; ``transfer`` trains on the suite's
source and measures on the other tasks and on the source's shifts. What the record file has is not trained
again. The table has the differences to some words (``--against``): mean over the tasks of the seeds' mean,
with its 95 percent interval over the tasks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from text_fleet import Member, Told, train
from tune import SHOTS, SUITE, held_out

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.estimator.fitting import settings_for
from vlprompt.estimator.prediction import predict_logits
from vlprompt.methods import get_method
from vlprompt.methods.base import Method
from vlprompt.training.frozen import image_features
from vlprompt.training.inputs import make_image_set

Record = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What is to be trained: words on tasks with seeds."""

    words: Sequence[str]
    seeds: Sequence[int]
    split: str
    file: Path
    encoder: Encoder

    def base_to_new(self, tasks: Sequence[str]) -> None:
        """Train on base classes, measure on base and new."""
        for task in tasks:
            if not (missing := self._missing(task)):
                continue
            pool = self._load(task)
            jobs = []
            for word, seed in missing:
                sample = data.few_shot(pool, SHOTS, seed) if self.split == "test" else held_out(pool, seed)
                base, new = data.subsample(sample, "base"), data.subsample(sample, "new")
                jobs.append((word, seed, base, {"base": base, "new": new}))
            self._run(task, jobs)

    def transfer(self) -> None:
        """Train on all classes of the source, measure on other tasks and on its shifts."""
        source = SUITE.source
        if not (missing := self._missing("transfer")):
            return
        others = {name: self._load(name) for name in SUITE.datasets}
        if self.split == "test":
            others |= {
                name: self._load(shift.removeprefix(SUITE.prefix)) for name, shift in SUITE.shifts.items()
            }
        jobs = []
        for word, seed in missing:
            draw = data.few_shot if self.split == "test" else lambda pool, _, s: held_out(pool, s)
            targets = {name: draw(pool, SHOTS, seed) for name, pool in others.items()}
            jobs.append((word, seed, targets[source], targets))
        self._run("transfer", jobs)

    def _load(self, task: str) -> Dataset:
        """A task, its test images only where they are asked for."""
        task_images = data.load(SUITE.prefix + task)
        return task_images if self.split == "test" else replace(task_images, test=[])

    def _missing(self, task: str) -> list[tuple[str, int]]:
        done = {(r["word"], r["seed"]) for r in self.records() if r["task"] == task}
        return [(w, s) for w in self.words for s in self.seeds if (w, s) not in done]

    def _run(self, task: str, jobs: Sequence[tuple[str, int, Dataset, dict[str, Dataset]]]) -> None:
        """Train, those with the same sequences together, then measure and append."""
        start = time.process_time()
        members: dict[Any, list[Member]] = {}
        methods = []
        for word, seed, dataset, _ in jobs:
            method = make(self.encoder, word, task, seed, dataset)
            methods.append(method)
            if method.trains:
                images = make_image_set(self.encoder, dataset.train, frozen=True)
                key = tuple(method.sequences), method.settings.epochs, method.settings.batch_size
                members.setdefault(key, []).append(Member(method, images, seed))
        for group in members.values():
            train(self.encoder, group)
        with self.file.open("a") as opened:
            for (word, seed, _, targets), method in zip(jobs, methods, strict=True):
                measured = {}
                for name, target in targets.items():
                    method.transfer(target.classnames, target.templates)
                    measured[name] = accuracy(method, target)
                record = {"word": word, "task": task, "seed": seed, "split": self.split, "accuracy": measured}
                opened.write(json.dumps(record) + "\n")
        print(f"{task}: {len(jobs)} trainings, {time.process_time() - start:.0f} s", flush=True)

    def records(self) -> list[Record]:
        """All that the file has of this split."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [r for r in map(json.loads, lines) if r["split"] == self.split]


def make(encoder: Encoder, word: str, task: str, seed: int, dataset: Dataset) -> Method:
    """An untrained method as the classifier makes it, with an encoder of its own."""
    name, _, changes = word.partition(":")
    source = SUITE.source if task == "transfer" else task
    kind = get_method(name, files=True)
    settings = SUITE.settings_for("genpt" if name.endswith(".py") else name, source) | (
        json.loads(changes) if changes else {}
    )
    torch.manual_seed(seed)
    method = kind(Told(encoder), dataset.classnames, settings_for(kind, dataset, settings), dataset.templates)
    if method.sees:
        features = image_features(encoder, [item.image for item in dataset.train])
        method.see(features, torch.tensor([item.label for item in dataset.train]))
    return method


def accuracy(method: Method, dataset: Dataset) -> float:
    """On a data set's test images, in percent."""
    logits = predict_logits(method, [item.image for item in dataset.test])
    labels = torch.tensor([item.label for item in dataset.test])
    return 100 * float((logits.argmax(-1) == labels).double().mean())


# What the records say.


def harmonic(base: Any, new: Any) -> Any:
    """H of base and new."""
    return 2 / (1 / base + 1 / new)


def numbers(records: Sequence[Record], word: str, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """What a word reaches, (tasks,) by name: means over the seeds that were run; ``"H"`` of each run."""
    found: dict[str, list[float]] = {}
    for task in tasks:
        runs = [r["accuracy"] for r in records if (r["word"], r["task"]) == (word, task)]
        if "new" in runs[0]:
            runs = [run | {"H": harmonic(run["base"], run["new"])} for run in runs]
        for name in runs[0]:
            found.setdefault(name, []).append(float(np.mean([run[name] for run in runs])))
    return {name: np.array(values) for name, values in found.items()}


def interval(values: np.ndarray) -> str:
    """Mean of (tasks,) with its 95 percent interval."""
    if len(values) < 2:
        return f"{values.mean():+.1f}"
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.1f} ± {half:.1f}"


def base_to_new_table(
    records: Sequence[Record], words: Sequence[str], against: Sequence[str]
) -> Iterator[str]:
    """A row a word: base, new and H of the averages, the differences, then every task."""
    by_word = {w: {r["task"] for r in records if r["word"] == w} for w in words}
    tasks = [t for t in SUITE.datasets if all(t in done for done in by_word.values())]
    head = ["", "base", "new", "H", *(f"{k} to {w}" for w in against for k in ("base", "new", "H")), *tasks]
    yield "| " + " | ".join(head) + " |"
    every = {w: numbers(records, w, tasks) for w in words}
    for word, found in every.items():
        base, new = found["base"].mean(), found["new"].mean()
        cells = [f"{value:.1f}" for value in (base, new, harmonic(base, new))]
        for other in against:
            apart = {k: found[k] - every[other][k] for k in ("base", "new", "H")}
            cells += [interval(values) if other != word else "" for values in apart.values()]
        cells += [f"{b:.0f}/{n:.0f}" for b, n in zip(found["base"], found["new"], strict=True)]
        yield f"| `{word}` | " + " | ".join(cells) + " |"


def transfer_table(records: Sequence[Record], words: Sequence[str], against: Sequence[str]) -> Iterator[str]:
    """A row a word: the source, the mean of other tasks and of shifts with the differences, then each."""
    shifts = list(SUITE.shifts)
    others = [name for name in SUITE.datasets if name != SUITE.source]
    groups = {"other tasks": others, "shifts": shifts}
    every = {w: numbers(records, w, ["transfer"]) for w in words}
    groups = {k: v for k, v in groups.items() if all(name in every[words[0]] for name in v)}
    head = ["", SUITE.source, *(f"{g}{f' to {w}' if w else ''}" for g in groups for w in ("", *against))]
    yield "| " + " | ".join([*head, *(n for names in groups.values() for n in names)]) + " |"
    for word, found in every.items():
        cells = [f"{found[SUITE.source][0]:.1f}"]
        for names in groups.values():
            own = np.array([found[n][0] for n in names])
            cells.append(f"{own.mean():.1f}")
            for other in against:
                theirs = np.array([every[other][n][0] for n in names])
                cells.append(interval(own - theirs) if other != word else "")
        cells += [f"{found[n][0]:.1f}" for names in groups.values() for n in names]
        yield f"| `{word}` | " + " | ".join(cells) + " |"


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="+", help='METHOD or METHOD:{"name": value}')
    parser.add_argument("--tasks", default=",".join(SUITE.datasets))
    parser.add_argument("--seeds", default="4,5")
    parser.add_argument("--split", choices=("held-out", "test"), default="held-out")
    parser.add_argument("--protocol", choices=("base-to-new", "transfer"), default="base-to-new")
    parser.add_argument("--against", action="append", help="may be given several times; coop and kgcoop")
    parser.add_argument("--out", type=Path, default=Path("out/genpt_study.jsonl"))
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in a.seeds.split(",")]
    study = Study(a.words, seeds, a.split, a.out, Encoder(load_backbone("toy")))
    against = [word for word in a.against or ("coop", "kgcoop") if word in a.words]
    if a.protocol == "transfer":
        study.transfer()
    else:
        study.base_to_new(a.tasks.split(","))
    records = [r for r in study.records() if r["seed"] in seeds]
    table = transfer_table if a.protocol == "transfer" else base_to_new_table
    print("\n".join(table(records, a.words, against)))


if __name__ == "__main__":
    main()
