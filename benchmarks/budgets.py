"""How accuracy depends on the number of tokens, by protocol, and what ``--budget auto`` takes.

    python benchmarks/budgets.py --tasks digits,shapes,letters --seeds 1,2,3

For each protocol (1, 4 and 16 images a class; base to new with 16) even lengths of six sizes are trained side
by side (:mod:`fleet`), and DPL with ``--budget auto`` by the classifier, with equal steps. Test images, at
most 300. Records are kept; what is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fleet import BATCH, LONGEST, Fleet, Problem, Recipe, Record, open_gates

from vlprompt import PromptClassifier, data
from vlprompt.dataset import Dataset
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.methods.dpl.gates import SIZES
from vlprompt.methods.lengths import Lengths, uniform_lengths

STEPS = {1: 80, 4: 160, 16: 320}
"""Of the training by images a class: fewer images bear fewer steps."""
PROTOCOLS = {"1 shot": (1, False), "4 shots": (4, False), "16 shots": (16, False), "base to new": (16, True)}
MEASURED = 300


def draw(task: str, shots: int, halves: bool, seed: int) -> dict[str, Dataset]:
    """What is trained on first, and all that is measured on, by name."""
    few = data.few_shot(data.load(f"toy:{task}"), shots, seed)
    parts = {k: data.subsample(few, k) for k in ("base", "new")} if halves else {"all": few}
    some = random.Random(0)
    return {k: replace(d, test=some.sample(d.test, min(MEASURED, len(d.test)))) for k, d in parts.items()}


def even(encoder: Encoder, parts: dict[str, Dataset], seed: int, steps: int) -> list[Record]:
    """Even lengths of each size, all at once."""
    problems = {name: Problem(encoder, part) for name, part in parts.items()}
    first = next(iter(problems.values()))
    longest = Lengths(*((LONGEST,) * layers for layers in first.layers))
    totals = sorted({round(share * longest.total) for share in SIZES})
    gates = open_gates([uniform_lengths(longest, total) for total in totals])
    fleet = Fleet(first, gates, [seed] * len(totals), Recipe(steps=steps))
    fleet.train()
    found: list[Record] = [{"way": "even", "tokens": total} for total in totals]
    for name, problem in problems.items():
        fleet.problem = problem
        for record, accuracy in zip(found, fleet.evaluate()[0], strict=True):
            record[name] = float(accuracy)
    return found


def chosen(parts: dict[str, Dataset], seed: int, steps: int) -> Record:
    """What ``--budget auto`` takes, and how good it is."""
    first = next(iter(parts.values()))
    settings = {"optimizer": "adamw", "lr": Recipe.lr, "batch_size": BATCH, "budget": "auto"}
    settings |= {"epochs": round(steps / max(len(first.train) // BATCH, 1))}
    settings |= {"text_max": LONGEST, "vision_max": LONGEST}
    classifier = PromptClassifier("dpl", settings=settings, augment="none", seed=seed, device="cpu")
    classifier.fit_dataset(first)
    record: Record = {"way": "auto", "tokens": classifier.method_.lengths.total}
    for name, part in parts.items():
        classifier.set_classes(part.classnames, part.templates)
        record[name] = classifier.evaluate(part.test)["accuracy"]
    return record


def table(records: Sequence[Record]) -> list[list[str]]:
    """A row a protocol and part: mean over tasks and seeds of each size, and of auto with its tokens."""
    totals = sorted({r["tokens"] for r in records if r["way"] == "even"})
    rows = [["", *map(str, totals), "auto", "its tokens", "best of each"]]
    for protocol, (_, halves) in PROTOCOLS.items():
        own = [r for r in records if r["protocol"] == protocol]
        for part in ("base", "new") if halves else ("all",):
            cells = [[r[part] for r in own if r["way"] == "even" and r["tokens"] == n] for n in totals]
            auto = [r for r in own if r["way"] == "auto"]
            if not auto:
                continue
            best = np.max(np.array(cells), 0).mean()
            numbers = [np.mean(c) for c in cells] + [np.mean([r[part] for r in auto])]
            took = "{:.0f} ({} to {})".format(*(f([r["tokens"] for r in auto]) for f in (np.mean, min, max)))
            rows.append([f"{protocol}, {part}", *(f"{n:.1f}" for n in numbers), took, f"{best:.1f}"])
    return rows


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="toy")
    parser.add_argument("--tasks", default="digits,shapes,letters")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--out", type=Path, default=Path("out/budgets.jsonl"))
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(load_backbone(a.backbone))
    records = [json.loads(line) for line in a.out.read_text().splitlines()] if a.out.exists() else []
    for seed in map(int, a.seeds.split(",")):
        for task in a.tasks.split(","):
            for protocol, (shots, halves) in PROTOCOLS.items():
                key = {"task": task, "seed": seed, "protocol": protocol}
                if any(key.items() <= r.items() for r in records):
                    continue
                parts = draw(task, shots, halves, seed)
                found = [*even(encoder, parts, seed, STEPS[shots]), chosen(parts, seed, STEPS[shots])]
                new = [key | record for record in found]
                records += new
                with a.out.open("a") as opened:
                    opened.writelines(json.dumps(record) + "\n" for record in new)
                print(key, [(r["way"], r["tokens"]) for r in new[-1:]], flush=True)
    for row in table(records):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
