"""Many placements of DPL's prompts trained at once, each as if alone: one pass of the frozen model for all.

All have the same frozen weights, so R trainings are one with R times the rows: prompts (R, C, D) in every
layer, and gates that close the tokens that a placement does not have. The steps of all R are those of
:class:`vlprompt.methods.dpl.dpl.DPL` with the same settings; only the order in which sums are taken
differs. Small models gain most: what costs a call costs it once.

Shapes: R placements, B images a step, L layers of both branches, C longest context, D width, K classes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.dataset import Dataset, Item
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.prompt import KeyValue, Prompt
from vlprompt.methods.dpl.settings import Settings
from vlprompt.methods.dpl.tokens import text_tokens
from vlprompt.methods.lengths import Lengths
from vlprompt.methods.rows import random_tokens
from vlprompt.methods.templates import DEFAULT_TEMPLATE, fill
from vlprompt.training.pixels import plain_pixels

LONGEST, BATCH = 6, 4
TASKS = "digits,directions,letters,shapes,textures,positions"
Record = dict[str, Any]


def open_gates(placements: Iterable[Lengths], longest: int = LONGEST) -> Tensor:
    """(R, L, C) of 1 where a placement has a token, text layers first."""
    counts = torch.tensor([[*lengths.text, *lengths.vision] for lengths in placements])  # (R, L)
    return (torch.arange(longest) < counts[..., None]).float()


@dataclass(frozen=True)
class Recipe:
    """How every placement is trained; the suite's settings of DPL."""

    steps: int = 320
    lr: float = 0.01


class Problem:
    """Images of a task, and the frozen backbone that is to see them."""

    def __init__(self, encoder: Encoder, dataset: Dataset):
        self.encoder, self.dataset = encoder, dataset
        self.rows = encoder.tokenize([fill(DEFAULT_TEMPLATE, name) for name in dataset.classnames])
        self.train, self.train_labels = self._read(dataset.train)
        self.test, self.test_labels = self._read(dataset.test)
        self.layers = len(encoder.backbone.text_layers), len(encoder.backbone.vision_layers)

    def _read(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, S, S) and labels (N,)."""
        draw = plain_pixels(self.encoder, [item.image for item in items])
        return draw(torch.arange(len(items))), torch.tensor([item.label for item in items])


class Fleet:
    """R placements with their prompts and gates.

    Args:
        gates: (R, L, C) of 0 and 1, text layers first.
        seeds: (R,) of each placement's prompts and order of images.
    """

    def __init__(self, problem: Problem, gates: Tensor, seeds: Sequence[int], recipe: Recipe):
        self.problem, self.recipe, self.seeds = problem, recipe, list(seeds)
        self.gates = gates.clone()
        self.text, self.vision = self._start()
        parameters = [self.text, self.vision]
        self.optimizer = torch.optim.AdamW(parameters, recipe.lr, (0.9, 0.999), weight_decay=5e-4)

    def _start(self) -> tuple[Tensor, Tensor]:
        """Prompts (R, L, C, D) of the text and of the vision branch, drawn by each one's seed."""
        encoder, c = self.problem.encoder, LONGEST
        n_text, n_vision = self.problem.layers
        drawn = {}
        for seed in set(self.seeds):
            torch.manual_seed(seed)
            text = torch.stack([t.data for t in text_tokens(encoder, Settings.ctx_init, [c] * n_text)])
            width = encoder.backbone.vision_width
            vision = torch.stack([random_tokens(c, width, encoder).data for _ in range(n_vision)])
            drawn[seed] = (text, vision)
        both = [torch.stack([drawn[s][i] for s in self.seeds]) for i in (0, 1)]
        return both[0].requires_grad_(), both[1].requires_grad_()

    def prompts(self, log_gates: Tensor, images: int) -> tuple[Prompt, Prompt]:
        """Of the text branch, one row a placement, and of the vision branch, ``images`` rows a placement."""
        n_text = self.problem.layers[0]
        text = [KeyValue(self.text[:, i], log_gates=log_gates[:, i]) for i in range(n_text)]
        vision = [
            KeyValue(
                self.vision[:, i].repeat_interleave(images, 0),
                log_gates=log_gates[:, n_text + i].repeat_interleave(images, 0),
            )
            for i in range(self.problem.layers[1])
        ]
        return Prompt(keys_values=text), Prompt(keys_values=vision)

    def logits(self, pixels: Tensor) -> Tensor:
        """Pixels (R, B, 3, S, S) -> (R, B, K)."""
        encoder = self.problem.encoder
        text, vision = self.prompts(self.log_gates, pixels.shape[1])
        classes = encoder.encode_text(self.problem.rows, text)  # (R, K, E)
        images = encoder.encode_image(pixels.flatten(0, 1), vision).unflatten(0, pixels.shape[:2])
        return encoder.logit_scale * images @ classes.mT

    def train(self) -> None:
        """All steps: a warm-up over a tenth of them, then a cosine to nothing."""
        count, size, steps = len(self.problem.train_labels), BATCH, self.recipe.steps
        an_epoch = max(count // size, 1)
        for step in range(steps):
            epoch, place = divmod(step, an_epoch)
            if not place:
                orders = torch.stack([self._order(seed, epoch, count) for seed in self.seeds])  # (R, N)
            done, ramp = (step + 0.5) / steps, (step + 1) / (steps / 10)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.lr * min(ramp, 0.5 * (1 + math.cos(math.pi * done)))
            self.step(orders[:, place * size : (place + 1) * size])

    @staticmethod
    def _order(seed: int, epoch: int, count: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1009 + epoch))

    def step(self, positions: Tensor) -> None:
        """One update of all placements on their own images (R, B)."""
        self.optimizer.zero_grad()
        logits = self.logits(self.problem.train[positions]).flatten(0, 1)  # (R * B, K)
        labels = self.problem.train_labels[positions].flatten()
        losses = F.cross_entropy(logits, labels, reduction="none")
        (losses.sum() / positions.shape[1]).backward()
        self.optimizer.step()

    @property
    def log_gates(self) -> Tensor:
        """(R, L, C), 0 where open and -inf where closed."""
        return torch.where(self.gates > 0, 0.0, -torch.inf)

    @torch.no_grad()
    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Accuracy in percent and mean cross-entropy on the test images of each placement, (R,) and (R,)."""
        images, labels, count = self.problem.test, self.problem.test_labels, len(self.seeds)
        hits, losses = torch.zeros(count), torch.zeros(count)
        for at in torch.arange(len(labels)).split(8):
            logits = self.logits(images[at].expand(count, -1, -1, -1, -1))  # (R, b, K)
            hits += (logits.argmax(-1) == labels[at]).sum(1)
            wanted = labels[at].expand(count, -1)
            losses += F.cross_entropy(logits.mT, wanted, reduction="none").sum(1)
        return 100 * hits / len(labels), losses / len(labels)


def command(
    about: str | None,
    file: str,
    seeds: str,
    trial: Callable[[Encoder, str, Fraction, int, Recipe], list[Record]],
    table: Callable[[list[Record]], list[list[str]]],
) -> None:
    """The command of a benchmark: train what its file does not have, print a table a backbone.

    Args:
        about: the help's text.
        file: name of the records under ``out``.
        seeds: the usual ones, with commas between.
        trial: what is trained and measured for a task, a share of the longest everywhere and a seed.
        table: rows of cells from all records.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbones", default="toy")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--seeds", default=seeds)
    parser.add_argument("--share", type=Fraction, default=Fraction(1, 3))
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--lr", type=float, default=0.04)
    parser.add_argument("--out", type=Path, default=Path("out") / file)
    a = parser.parse_args()
    torch.set_num_threads(1)
    for backbone in a.backbones.split(","):
        encoder = Encoder(load_backbone(backbone))

        def one(task: str, seed: int, encoder: Encoder = encoder) -> list[Record]:
            return trial(encoder, task, a.share, seed, Recipe(a.steps, a.lr))

        same = {"backbone": backbone, "share": str(a.share), "steps": a.steps, "lr": a.lr}
        drawn = [int(seed) for seed in a.seeds.split(",")]
        for row in table(_recorded(a.out, same, drawn, a.tasks.split(","), one)):
            print("| " + " | ".join(row) + " |")


def _recorded(
    file: Path,
    same: Record,
    seeds: Sequence[int],
    tasks: Sequence[str],
    trial: Callable[[str, int], list[Record]],
) -> list[Record]:
    """Run ``trial(task, seed)`` where the file has no record of it, and give all that it has of ``same``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in seeds:
        for task in tasks:
            key = same | {"task": task, "seed": seed}
            if any(key.items() <= record.items() for record in records):
                continue
            start = time.perf_counter()
            new = [key | record for record in trial(task, seed)]
            records += new
            with file.open("a") as opened:
                opened.writelines(json.dumps(record) + "\n" for record in new)
            print(f"{task} {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return [record for record in records if same.items() <= record.items()]
