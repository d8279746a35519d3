"""How good is the search? Measured as architecture-search research does.

    python benchmarks/search_study.py --tasks digits,shapes --seeds 1 --variants paper,default

For each task and seed, 30 random configurations are trained alone (once, kept in the record file). Each
variant of the search is then run and asked for its judgement:

* tau: Kendall's rank correlation between the supernet's validation loss with a configuration's lengths
  and that configuration's test accuracy when trained alone; tau_alpha: the same for the alphas' log
  probability of the configuration.
* found: test accuracy of the found lengths trained alone; random: mean over configurations drawn with
  the same number of tokens; best, mean: over the 30 configurations.

The test accuracy is what tau is measured against; nothing is chosen by it. With --held-out, the images that
the few-shot sample leaves take the place of the test images: variants are chosen there.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from tune import sample

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.methods.dpl.dpl import DPL
from vlprompt.methods.dpl.settings import PAPER, Settings
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.lengths import Lengths, random_lengths
from vlprompt.training.imageset import ImageSet
from vlprompt.training.inputs import make_image_set
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions

LONGEST = 6
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "default": {},
    "warmup": PAPER | {"warmup": 0.5},
    "nested": PAPER | {"nested": True},
    "nested+warmup": PAPER | {"nested": True, "warmup": 0.5},
    "sampled": PAPER | {"nested": True, "sampled": True},
    "sampled+warmup": PAPER | {"nested": True, "sampled": True, "warmup": 0.5},
}
"""Changes to the defaults."""


class Study:
    """One task and seed: its images on a frozen backbone."""

    def __init__(self, task: str, seed: int, base: dict[str, Any], held_out: bool):
        self.task, self.seed, self.base = task, seed, base
        self.dataset: Dataset = (
            sample(task, seed) if held_out else data.few_shot(data.load(f"toy:{task}"), 16, seed)
        )
        self.encoder = Encoder(load_backbone("toy"))
        self.splits = {
            "train": make_image_set(self.encoder, self.dataset.train),
            "val": make_image_set(self.encoder, self.dataset.val),
        }
        self.test = make_image_set(self.encoder, self.dataset.test)
        self.layers = len(self.encoder.backbone.text_layers), len(self.encoder.backbone.vision_layers)

    def train(self, lengths: Lengths) -> dict[str, float]:
        """Accuracy of one configuration trained alone."""
        torch.manual_seed(self.seed)
        settings = Settings(**self.base, text_lengths=lengths.text, vision_lengths=lengths.vision)
        method = DPL(self.encoder, self.dataset.classnames, settings, self.dataset.templates)
        fit(method, self.splits, TrainOptions(seed=self.seed, device="cpu"), show=False)
        method.eval()
        return {
            name: measure(method, split)[0]
            for name, split in (("test", self.test), ("val", self.splits["val"]))
        }

    def search(self, changes: dict[str, Any]) -> tuple[Supernet, float, int]:
        """A trained supernet, its seconds and epochs."""
        torch.manual_seed(self.seed)
        values = self.base | changes
        epochs = values.get("search_epochs", 80)
        settings = Settings(**values | {"epochs": epochs})
        supernet = Supernet(self.encoder, self.dataset.classnames, settings, self.dataset.templates)
        start = time.perf_counter()
        history = fit(supernet, self.splits, TrainOptions(seed=self.seed, device="cpu"), show=False)
        return supernet.eval(), time.perf_counter() - start, len(history)


@torch.no_grad()
def measure(method: Any, split: ImageSet) -> tuple[float, float]:
    """Accuracy in percent and mean cross-entropy."""
    classes = method.class_features()
    logits = torch.cat(
        [
            method.logits(method.image_features(split.images(at)), classes)
            for at in torch.arange(len(split.labels)).split(128)
        ]
    )
    accuracy = 100 * float((logits.argmax(-1) == split.labels).float().mean())
    return accuracy, float(torch.nn.functional.cross_entropy(logits, split.labels))


def log_probability(supernet: Supernet, lengths: Lengths) -> float:
    """Of a configuration, under the alphas."""
    parts = zip((supernet.text_alphas, supernet.vision_alphas), (lengths.text, lengths.vision), strict=True)
    return sum(float(a.detach().log_softmax(-1)[range(len(n)), n].sum()) for a, n in parts)


def study(
    task: str,
    seed: int,
    variants: Sequence[str],
    configs: int,
    base: dict[str, Any],
    held_out: bool,
    file: Path,
) -> None:
    """Append what is missing for one task and seed."""
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    what = {"task": task, "seed": seed, "base": base, "held_out": held_out}
    mine = [r for r in records if what.items() <= r.items()]

    def append(record: dict[str, Any]) -> dict[str, Any]:
        record = what | record
        with file.open("a") as opened:
            opened.write(json.dumps(record) + "\n")
        return record

    case = Study(task, seed, base, held_out)
    rng = random.Random(1000 + seed)
    most = sum(case.layers) * LONGEST
    drawn = [random_lengths(rng, case.layers, LONGEST, rng.randint(0, most)) for _ in range(configs)]
    alone = [r for r in mine if r["kind"] == "alone"]
    for lengths in drawn[len(alone) :]:
        got = case.train(lengths)
        alone.append(append({"kind": "alone", "text": lengths.text, "vision": lengths.vision} | got))
    accuracies = [r["test"] for r in alone[:configs]]
    for variant in variants:
        if any(r["kind"] == "search" and r["variant"] == variant for r in mine):
            continue
        supernet, seconds, epochs = case.search(dict(VARIANTS[variant]))
        losses = []
        for lengths in drawn:
            with supernet.choose(lengths):
                losses.append(measure(supernet, case.splits["val"])[1])
        found = supernet.lengths
        control = [
            case.train(random_lengths(random.Random(seed * 100 + i), case.layers, LONGEST, found.total))[
                "test"
            ]
            for i in range(3)
        ]
        record = {
            "kind": "search",
            "variant": variant,
            "tau": float(kendalltau([-x for x in losses], accuracies).statistic),
            "tau_alpha": float(
                kendalltau([log_probability(supernet, n) for n in drawn], accuracies).statistic
            ),
            "tau_tokens": float(kendalltau([n.total for n in drawn], accuracies).statistic),
            "text": found.text,
            "vision": found.vision,
            "confidence": float(np.mean(found.text_confidence + found.vision_confidence)),
            "found": case.train(found)["test"],
            "random": float(np.mean(control)),
            "mean": float(np.mean(accuracies)),
            "best": float(np.max(accuracies)),
            "seconds": seconds,
            "epochs": epochs,
        }
        print(json.dumps(append(record)), flush=True)


def table(file: Path, base: dict[str, Any], held_out: bool) -> str:
    """Markdown: a row a variant, means over tasks and seeds."""
    wanted = {"kind": "search", "base": base, "held_out": held_out}.items()
    found = [r for r in map(json.loads, file.read_text().splitlines()) if wanted <= r.items()]
    columns = ("tau", "tau_alpha", "tau_tokens", "found", "random", "mean", "best", "confidence", "seconds")
    lines = ["| search | runs | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    each = []
    for variant in dict.fromkeys(r["variant"] for r in found):
        rows = [r for r in found if r["variant"] == variant]
        cells = [f"{np.mean([r[c] for r in rows]):.2f}" for c in columns]
        lines.append(f"| {variant} | {len(rows)} | " + " | ".join(cells) + " |")
        taus = ", ".join(f"{r['task']} {r['seed']}: {r['tau']:.2f}" for r in rows)
        each.append(f"tau of {variant}: {taus}; {sum(r['tau'] >= 0.5 for r in rows)} at least 0.5")
    return "\n".join([*lines, "", *each])


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", default="digits,shapes,textures,directions")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--variants", default="paper,default")
    parser.add_argument("--configs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="settings of every training, e.g. epochs=40")
    parser.add_argument("--held-out", action="store_true", help="never look at a test image")
    parser.add_argument("--out", type=Path, default=Path("out/search_study.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in arguments.set)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks.split(","):
        for seed in map(int, arguments.seeds.split(",")):
            variants = arguments.variants.split(",")
            study(task, seed, variants, arguments.configs, base, arguments.held_out, arguments.out)
    print(table(arguments.out, base, arguments.held_out))


if __name__ == "__main__":
    main()
