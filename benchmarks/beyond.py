"""DPL beyond CLIP: the search beside uniform lengths, other prompts and a linear head, at equal tokens.

    python benchmarks/beyond.py vision --tasks digits,letters --out vision.jsonl
    python benchmarks/beyond.py language --out language.jsonl
    python benchmarks/beyond.py steps

Each row is one training, measured on the task's test examples, and appended to ``--out``; what is there
is not run again. ``--split held-out`` measures on at most 300 training and validation examples that the
few-shot sample leaves, to choose ``--lr`` by. ``peft`` is its prefix tuning, where that package is installed:
on the same model, texts padded, with the same head, optimiser, epochs and batches. ``steps`` times one
training step on 100 texts of 20 to 60 tokens, medians of turns: a search, a fixed prefix of equal tokens, and
peft's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt import data
from vlprompt.dataset import Dataset, Item
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.estimator.text import classifier_for
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch, class_means
from vlprompt.methods.lengths import Lengths, uniform_lengths
from vlprompt.training.pixels import plain_pixels
from vlprompt.training.processes import one_thread

SHOTS, LONGEST, SHARE = 16, 6, 1 / 3
MODELS = {"vision": "toy-vision", "language": "toy-text"}
TRAINED = {"epochs": 20, "batch_size": 8, "optimizer": "adamw"}
RATE = 0.01
"""The best of three on held-out examples, in both worlds."""


def settings_of(row: str, layers: int, vision: bool, lr: float) -> tuple[str, dict[str, Any]]:
    """The method of a row and its settings; all rows but the linear head have equally many tokens."""
    trained = TRAINED | {"lr": lr}
    total = round(SHARE * LONGEST * layers)
    even = uniform_lengths(Lengths((), (LONGEST,) * layers), total).vision
    branch = "vision" if vision else "text"
    return {
        "linear": ("linear", {}),
        "dpl": ("dpl", trained | {"budget": total, f"{branch}_max": LONGEST}),
        "dpl, found again": ("dpl", trained | {"budget": total, f"{branch}_max": LONGEST, "fresh": True}),
        "uniform": ("dpl", trained | {f"{branch}_lengths": even}),
        "vpt": ("vpt", trained | {"vision_lengths": even}),
    }[row]


def run(world: str, row: str, dataset: Dataset, seed: int, lr: float) -> dict[str, Any]:
    """One training, measured on the test examples."""
    start, model = time.perf_counter(), MODELS[world]
    if row == "peft":
        accuracy = peft_accuracy(dataset, seed, lr)
        return {"accuracy": accuracy, "seconds": time.perf_counter() - start}
    backbone = load_backbone(model)
    layers = len(backbone.vision_layers or backbone.text_layers)
    method, settings = settings_of(row, layers, world == "vision", lr)
    classifier = classifier_for(dataset)(method, model, settings, seed=seed, device="cpu")
    classifier.fit_dataset(dataset)
    seconds = time.perf_counter() - start
    found = classifier.method_.lengths
    lengths = {"lengths": found.vision or found.text} if found else {}
    return {"accuracy": classifier.evaluate(dataset.test)["accuracy"], "seconds": seconds} | lengths


# Prefix tuning as peft does it.


class Peft(nn.Module):
    """peft's prefix of one length in all layers, texts padded, and a head from class means."""

    def __init__(self, encoder: Encoder, total: int):
        from peft import PrefixTuningConfig, TaskType, get_peft_model

        super().__init__()
        model = encoder.backbone.model
        model.set_attn_implementation("sdpa")
        each = max(total // len(encoder.backbone.text_layers), 1)
        config = PrefixTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=each)
        self.longest = model.config.max_position_embeddings - each
        """peft's prefix takes positions, so that the longest texts lose their last tokens."""
        self.model, self.scale = get_peft_model(model, config), encoder.logit_scale
        self.head: nn.Parameter

    def features(self, ids: Tensor) -> Tensor:
        """Token ids (B, T), -1 behind shorter texts -> (B, E)."""
        ids = ids[:, : self.longest]
        there = ids >= 0
        states = self.model(input_ids=ids.clamp(min=0), attention_mask=there.long()).last_hidden_state
        return F.normalize(states[torch.arange(len(ids)), there.sum(1) - 1], dim=-1)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.scale * self.features(ids) @ F.normalize(self.head, dim=-1).T


def peft_model(total: int, features: Tensor, labels: Tensor, classes: int, lr: float) -> tuple[Peft, Any]:
    """The model, and the optimiser that the other rows have."""
    model = Peft(Encoder(load_backbone(MODELS["language"])), total)
    model.head = nn.Parameter(class_means(features, labels, classes))
    moved = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(moved, lr, weight_decay=get_method("dpl").Settings().weight_decay)


def peft_accuracy(dataset: Dataset, seed: int, lr: float) -> float:
    """Test accuracy with the schedule of DPL."""
    from vlprompt.training.options import learning_rates

    torch.manual_seed(seed)
    encoder = Encoder(load_backbone(MODELS["language"]))
    draw = plain_pixels(encoder, [item.image for item in dataset.train])
    labels = torch.tensor([item.label for item in dataset.train])
    with torch.no_grad():
        features = encoder.encode_input(draw(torch.arange(len(labels))))
    total = round(SHARE * LONGEST * len(encoder.backbone.text_layers))
    model, optimizer = peft_model(total, features, labels, len(dataset.classnames), lr)
    for rate in learning_rates(lr, TRAINED["epochs"]):
        optimizer.param_groups[0]["lr"] = rate
        for batch in torch.randperm(len(labels)).split(TRAINED["batch_size"]):
            optimizer.zero_grad()
            F.cross_entropy(model(draw(batch)), labels[batch]).backward()
            optimizer.step()
    test = plain_pixels(encoder, [item.image for item in dataset.test])
    truth = torch.tensor([item.label for item in dataset.test])
    with torch.no_grad():
        right = [(model(test(b)).argmax(1) == truth[b]).sum() for b in torch.arange(len(truth)).split(64)]
    return 100 * float(sum(right)) / len(truth)


# One step.


def steps(repeats: int = 5) -> dict[str, float]:
    """Milliseconds of one step, medians of turns, and ratios to the fixed prefix."""
    draw = random.Random(1)
    encoder = Encoder(load_backbone(MODELS["language"]))
    labels = torch.arange(100) % 7
    rows = [[draw.randrange(2, 1000) for _ in range(draw.randint(20, 60))] for _ in labels]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, -1)
    names, kind = tuple("abcdefg"), get_method("dpl")
    with torch.no_grad():
        features = encoder.encode_input(ids)
    turns: dict[str, Callable[[], None]] = {}
    layers = len(encoder.backbone.text_layers)
    for row in ("dpl", "uniform"):
        _, settings = settings_of(row, layers, False, RATE)
        method = kind(encoder, names, kind.Settings(**settings))
        method.see(features, labels)
        turns[row] = stepped(method, method.objectives()[0].optimizer, Batch(ids, labels))
    if importlib.util.find_spec("peft"):
        total = round(SHARE * LONGEST * layers)
        model, optimizer = peft_model(total, features, labels, 7, RATE)

        def peft_step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(ids), labels).backward()
            optimizer.step()

        turns["peft"] = peft_step
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(repeats):
        for name, step in turns.items():
            start = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - start))
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    return medians | {f"{name} / uniform": value / medians["uniform"] for name, value in medians.items()}


def stepped(method: Any, optimizer: Any, batch: Batch) -> Callable[[], None]:
    """One step of a method as the training loop does it."""

    def step() -> None:
        optimizer.zero_grad()
        method.loss(batch)["loss"].backward()
        optimizer.step()
        method.after_step()

    return step


def left(pool: Dataset, sample: Dataset, count: int) -> list[Item]:
    """Some of the training and validation examples that a sample leaves."""
    taken = {id(item.image) for item in (*sample.train, *sample.val)}
    others = [item for item in (*pool.train, *pool.val) if id(item.image) not in taken]
    return random.Random(0).sample(others, min(count, len(others)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("world", choices=["vision", "language", "steps"])
    parser.add_argument("--tasks", default="")
    parser.add_argument("--rows", default="")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--lr", type=float, help="of all rows but the linear head")
    parser.add_argument("--split", choices=["test", "held-out"], default="test")
    parser.add_argument("--out", type=Path, default=Path("beyond.jsonl"))
    given = parser.parse_args()
    if given.world == "steps":
        with one_thread():
            print(json.dumps({k: round(v, 2) for k, v in steps().items()}))
        return
    tasks = given.tasks or {"vision": "digits", "language": "stdlib"}[given.world]
    rows = given.rows.split(",") if given.rows else ["linear", "uniform", "dpl"]
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    lr = given.lr or RATE
    there = {(r["task"], r["row"], r["seed"], r["lr"], r["split"]) for r in done}
    for seed in map(int, given.seeds.split(",")):
        for task in tasks.split(","):
            pool = data.load(f"toy:{task}")
            sample = data.few_shot(pool, SHOTS, seed)
            if given.split == "held-out":
                sample = replace(sample, test=left(pool, sample, 300))
            for row in rows:
                if (task, row, seed, lr, given.split) in there:
                    continue
                with one_thread():
                    result = {"task": task, "row": row, "seed": seed, "lr": lr, "split": given.split}
                    result |= run(given.world, row, sample, seed, lr)
                with given.out.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(result, flush=True)


if __name__ == "__main__":
    main()
