"""What is to be gained by placing tokens: the ceiling of any search, measured before a search is judged.

    python benchmarks/search_study.py --backbones toy,toy-deep --tasks digits,shapes --seeds 1,2 --shares 1/3

For each backbone, task and budget (a share of the longest context everywhere), random placements of exactly
that many tokens, the uniform one and hand-made ones are trained with several seeds, all at once
(:mod:`fleet`), on the images of a few-shot draw, and measured on images that training leaves; test images are
never loaded. Trainings that the record file has are not repeated. The page then says, per backbone:

* what the best placement by one half of the seeds gains over uniform and over random with the other half;
* how well seeds agree about placements (mean correlation);
* which layers want tokens: least squares of the accuracy on the square root of each layer's tokens;
* what DPL's search gains, by its lengths with fresh prompts (``--searched``), and how its worth of tokens
  ranks the random placements;
* ``--prior``: what the placement that the other tasks' layers want gains on a task, and seeds of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fleet import LONGEST, TASKS, Fleet, Problem, Recipe, Record, open_gates
from matplotlib.figure import Figure
from scipy.stats import kendalltau
from search_test import Searching
from tune import sample

from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.methods.dpl.gates import Gates
from vlprompt.methods.lengths import Lengths, random_lengths, uniform_lengths
from vlprompt.reports.page import figure, paragraph, section, table, write_page
from vlprompt.reports.plots import WIDTH
from vlprompt.reports.svg import inline_svg

DRAW = 5
"""Of the few-shot sample; the benchmark's seeds 1 to 3 draw others."""
MEASURED = 320
"""Held-out images that a placement is measured on, at most."""
PRIOR = "prior"
"""Name of the placement that other tasks' layers want: measured, but none of those that are chosen from."""
SEARCHED, FRESH = "searched", "its lengths"
"""DPL's search on the same images, with its own prompts and with fresh ones; its lengths differ by seed."""


def placements(longest: Lengths, total: int, count: int) -> dict[str, Lengths]:
    """Hand-made and random placements of ``total`` tokens, by name."""
    text, vision = len(longest.text), len(longest.vision)
    order = [i for pair in itertools.zip_longest(range(text), range(text, text + vision)) for i in pair]
    order = [i for i in order if i is not None]
    named = {
        "uniform": uniform_lengths(longest, total),
        "first layers": _filled(longest, total, order),
        "last layers": _filled(longest, total, order[::-1]),
    }
    for branch, empty in (
        ("text", replace(longest, vision=(0,) * vision)),
        ("vision", replace(longest, text=(0,) * text)),
    ):
        if empty.total >= total:
            named[f"{branch} alone"] = uniform_lengths(empty, total)
    draw = random.Random(1000 + total)
    return named | {f"random {i}": random_lengths(draw, longest, total) for i in range(count)}


def _filled(longest: Lengths, total: int, order: Sequence[int]) -> Lengths:
    """The longest context in one layer after the other, until all tokens have a place."""
    room = [*longest.text, *longest.vision]
    lengths = [0] * len(room)
    for layer in order:
        lengths[layer] = min(room[layer], total - sum(lengths))
    return Lengths(tuple(lengths[: len(longest.text)]), tuple(lengths[len(longest.text) :]))


@dataclass(frozen=True)
class Study:
    """What is to be trained."""

    backbones: Sequence[str]
    tasks: Sequence[str]
    seeds: Sequence[int]
    shares: Sequence[Fraction]
    placements: int
    recipe: Recipe
    file: Path

    def run(self) -> None:
        """Train and append what the file does not have."""
        for backbone in self.backbones:
            encoder = Encoder(load_backbone(backbone))
            for task in self.tasks:
                problem = Problem(encoder, held_out(task))
                layers = problem.layers
                longest = Lengths((LONGEST,) * layers[0], (LONGEST,) * layers[1])
                for share, seed in itertools.product(self.shares, self.seeds):
                    total = round(share * longest.total)
                    key = {"backbone": backbone, "task": task, "total": total, "seed": seed}
                    key |= {"steps": self.recipe.steps, "lr": self.recipe.lr}
                    done = {r["name"] for r in self.records() if key.items() <= r.items()}
                    wanted = placements(longest, total, self.placements)
                    missing = {name: lengths for name, lengths in wanted.items() if name not in done}
                    if missing:
                        self._train(problem, key, missing)

    def prior(self) -> None:
        """Train, for each task, the placement that the layers of the other tasks want."""
        found = cells(self.records())
        for cell in self._without(PRIOR):
            others = others_of(cell, found)
            seeds = [s for s in self.seeds if s in cell.seeds]
            if not others:
                continue
            problem = Problem(Encoder(load_backbone(cell.backbone)), held_out(cell.task))
            longest = Lengths(*((LONGEST,) * layers for layers in problem.layers))
            placed = wanted_lengths(np.mean([c.wants() for c in others], 0), longest, cell.total)
            for seed in seeds:
                key = {"backbone": cell.backbone, "task": cell.task, "total": cell.total, "seed": seed}
                key |= {"steps": self.recipe.steps, "lr": self.recipe.lr}
                self._train(problem, key, {PRIOR: placed})

    def searched(self) -> None:
        """Search in each cell with each of its seeds, then train what was found from the start."""
        for cell in self._without(SEARCHED):
            problem = Problem(Encoder(load_backbone(cell.backbone)), held_out(cell.task))
            text, vision = problem.layers
            longest = Lengths((LONGEST,) * text, (LONGEST,) * vision)
            every = torch.full((text + vision,), LONGEST)
            gates = [Gates(every, cell.total) for _ in cell.seeds]
            whole = open_gates([longest for _ in gates])
            search = Searching(problem, whole, dict(enumerate(gates)), cell.seeds, self.recipe)
            search.train()
            found = [Lengths(tuple(g.lengths[:text]), tuple(g.lengths[text:])) for g in gates]
            fresh = Fleet(problem, open_gates(found), cell.seeds, self.recipe)
            fresh.train()
            key = {"backbone": cell.backbone, "task": cell.task, "total": cell.total}
            key |= {"steps": self.recipe.steps, "lr": self.recipe.lr}
            worth = [{"worth": g.worth.sort(-1, descending=True).values.tolist()} for g in gates]
            about = [{"seed": seed} | each for seed, each in zip(cell.seeds, worth, strict=True)]
            for name, fleet in {SEARCHED: search, FRESH: fresh}.items():
                self._write(key, [{"name": name} | each for each in about], found, fleet)

    def _without(self, name: str) -> list[Cell]:
        """Those of the file's cells that are asked for and lack a placement."""
        return [
            cell
            for cell in cells(self.records())
            if cell.backbone in self.backbones and cell.task in self.tasks and name not in cell.names
            if cell.total in {round(share * cell.lengths.shape[1] * LONGEST) for share in self.shares}
        ]

    def _train(self, problem: Problem, key: Record, wanted: dict[str, Lengths]) -> None:
        start = time.perf_counter()
        fleet = Fleet(problem, open_gates(wanted.values()), [key["seed"]] * len(wanted), self.recipe)
        fleet.train()
        self._write(key, [{"name": name} for name in wanted], list(wanted.values()), fleet)
        where = " ".join(str(key[name]) for name in ("backbone", "task", "total", "seed"))
        print(f"{where}: {len(wanted)} placements, {time.perf_counter() - start:.0f} s", flush=True)

    def _write(self, key: Record, about: Sequence[Record], placed: Sequence[Lengths], fleet: Fleet) -> None:
        """A record of each of a fleet."""
        with self.file.open("a") as opened:
            for each, lengths, accuracy, loss in zip(about, placed, *fleet.evaluate(), strict=True):
                record = each | {"text": lengths.text, "vision": lengths.vision}
                record |= {"accuracy": float(accuracy), "loss": float(loss)}
                opened.write(json.dumps(key | record) + "\n")

    def records(self) -> list[Record]:
        """All that the file has."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


def wanted_lengths(wants: np.ndarray, longest: Lengths, total: int) -> Lengths:
    """The placement of ``total`` tokens that maximises sum_l wants_l sqrt(n_l): token by token."""
    room = np.array([*longest.text, *longest.vision])
    counts = np.zeros_like(room)
    for _ in range(total):
        gain = np.where(counts < room, wants * (np.sqrt(counts + 1) - np.sqrt(counts)), -np.inf)
        counts[gain.argmax()] += 1
    return Lengths(tuple(counts[: len(longest.text)].tolist()), tuple(counts[len(longest.text) :].tolist()))


def held_out(task: str) -> Any:
    """A few-shot draw whose test images are a sample of those that it leaves."""
    dataset = sample(task, DRAW)
    return replace(dataset, test=random.Random(0).sample(dataset.test, min(MEASURED, len(dataset.test))))


# What the records say.


@dataclass(frozen=True)
class Cell:
    """One backbone, task and budget: accuracies (P, S) of P placements with S seeds."""

    backbone: str
    task: str
    total: int
    names: list[str]
    lengths: np.ndarray
    """(P, L)"""
    accuracy: np.ndarray
    seeds: list[int]
    worth: np.ndarray
    """(S, L, C) of tokens by a search with each seed, falling in a layer; (0, L, C) where none was made."""

    @property
    def drawn(self) -> np.ndarray:
        """Which placements are random, (P,)."""
        return np.array([name.startswith("random") for name in self.names])

    @property
    def of_own(self) -> np.ndarray:
        """Which placements come neither from other tasks nor from the search, (P,)."""
        return np.array([name not in (PRIOR, SEARCHED, FRESH) for name in self.names])

    def mean(self, name: str) -> float:
        """Of a named placement over seeds; not a number where it was not trained."""
        return float(self.accuracy[self.names.index(name)].mean()) if name in self.names else float("nan")

    def halves(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Mean accuracies (P,) of one half of the seeds and of the other, and the reverse."""
        seeds = self.accuracy.shape[1]
        first, second = self.accuracy[:, : seeds // 2].mean(1), self.accuracy[:, seeds // 2 :].mean(1)
        yield first, second
        yield second, first

    def gains(self) -> list[tuple[float, float]]:
        """Of the best placement by one half of the seeds, with the other half: over uniform, over random."""
        uniform = self.names.index("uniform")
        return [
            (other[best] - other[uniform], other[best] - other[self.drawn].mean())
            for one, other in self.halves()
            for best in [int(np.where(self.of_own, one, -np.inf).argmax())]
        ]

    def over_uniform(self, name: str) -> list[float]:
        """Of a named placement with each seed; empty where it was not trained."""
        if name not in self.names:
            return []
        uniform = self.names.index("uniform")
        values: list[float] = (self.accuracy[self.names.index(name)] - self.accuracy[uniform]).tolist()
        return values

    def search_ranking(self) -> float:
        """Kendall's tau of the search's worth with the random placements, mean over its seeds."""
        counts, places = self.lengths[self.drawn], np.arange(LONGEST)
        has = places < counts[..., None]  # (P, L, C)
        measured = self.accuracy[self.drawn].mean(1)
        taus = [kendalltau((has * worth).sum((1, 2)), measured).statistic for worth in self.worth]
        return float(np.mean(taus)) if taus else float("nan")

    def agreement(self) -> float:
        """Mean correlation of two seeds over the random placements."""
        pairs = itertools.combinations(self.accuracy[self.drawn].T, 2)
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))

    def wants(self) -> np.ndarray:
        """Points of accuracy by the square root of a layer's tokens, (L,): ridge regression."""
        roots, accuracy = np.sqrt(self.lengths[self.of_own]), self.accuracy[self.of_own]  # (P, L), (P, S)
        x, y = roots - roots.mean(0), accuracy.mean(1) - accuracy.mean()
        return np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)


def others_of(cell: Cell, found: Sequence[Cell]) -> list[Cell]:
    """The cells of other tasks, of the same backbone and budget."""
    return [c for c in found if (c.backbone, c.total) == (cell.backbone, cell.total) and c.task != cell.task]


def ranking(cell: Cell, found: Sequence[Cell]) -> float:
    """Kendall's tau of what the other tasks' layers want with a task's random placements."""
    others = others_of(cell, found)
    if not others:
        return float("nan")
    wanted = np.sqrt(cell.lengths[cell.drawn]) @ np.mean([c.wants() for c in others], 0)
    return float(kendalltau(wanted, cell.accuracy[cell.drawn].mean(1)).statistic)


def cells(records: Sequence[Record]) -> list[Cell]:
    """Records by backbone, task and budget; placements that not all seeds have are left out."""
    found = []
    key = lambda r: (r["backbone"], r["total"], r["task"])  # noqa: E731
    for (backbone, total, task), group in itertools.groupby(sorted(records, key=key), key):
        rows = list(group)
        seeds = sorted({r["seed"] for r in rows})
        by = {(r["name"], r["seed"]): r for r in rows}
        names = [n for n in dict.fromkeys(r["name"] for r in rows) if all((n, s) in by for s in seeds)]
        first = [by[n, seeds[0]] for n in names]
        lengths = np.array([[*r["text"], *r["vision"]] for r in first])
        accuracy = np.array([[by[n, s]["accuracy"] for s in seeds] for n in names])
        if len(seeds) > 1 and "uniform" in names:
            searched = [by[SEARCHED, s]["worth"] for s in seeds] if SEARCHED in names else []
            worth = np.array(searched).reshape(len(searched), lengths.shape[1], LONGEST)
            found.append(Cell(backbone, task, total, names, lengths, accuracy, seeds, worth))
    return found


def interval(values: Sequence[float]) -> str:
    """Mean with its 95 percent interval over cells and halves."""
    if len(values) < 2:
        return f"{np.mean(values):+.1f}"
    return f"{np.mean(values):+.1f} ± {1.96 * np.std(values, ddof=1) / np.sqrt(len(values)):.1f}"


def over_random(same: Sequence[Cell]) -> str:
    """What random placements gain over uniform, by cell."""
    return interval([float(c.accuracy[c.drawn].mean() - c.mean("uniform")) for c in same])


def over_uniform(same: Sequence[Cell], name: str) -> str:
    """What a named placement gains over uniform; empty where it was not trained."""
    apart = [value for cell in same for value in cell.over_uniform(name)]
    return interval(apart) if apart else ""


NAMED = (SEARCHED, FRESH, "first layers", "last layers", "text alone", "vision alone", PRIOR)
HEAD = ["task", "uniform", "random: mean (range)", "best - uniform", "best - random", "agreement"]
HEAD += ["tau of search", "tau of prior", *NAMED]


def shown(value: float, form: str = ".1f") -> str:
    """A number, or nothing where there is none."""
    return "" if np.isnan(value) else format(value, form)


def rows(same: Sequence[Cell]) -> list[list[str]]:
    """The table of one backbone and budget: a row a cell, and what each column gains over uniform."""
    lines = []
    for cell in same:
        drawn = cell.accuracy[cell.drawn].mean(1)
        lines.append([cell.task, shown(cell.mean("uniform"))])
        lines[-1].append(f"{drawn.mean():.1f} ({drawn.min():.1f} to {drawn.max():.1f})")
        lines[-1] += [shown(gain, "+.1f") for gain in np.mean(cell.gains(), 0)]
        taus = cell.search_ranking(), ranking(cell, same)
        lines[-1] += [shown(value, ".2f") for value in (cell.agreement(), *taus)]
        lines[-1] += [shown(cell.mean(name)) for name in NAMED]
    over = zip(*(gain for cell in same for gain in cell.gains()), strict=True)
    agreement = np.mean([cell.agreement() for cell in same])
    lines.append(["minus uniform", "", over_random(same), *map(interval, over), f"{agreement:.2f}", "", ""])
    lines[-1] += [over_uniform(same, name) for name in NAMED]
    return lines


def wants_figure(same: Sequence[Cell], text: int) -> Figure:
    """Which layers want tokens: a row a task, the text layers first."""
    values = np.stack([cell.wants() for cell in same])  # (tasks, L)
    drawing = Figure(figsize=(WIDTH, 1.2 + 0.35 * len(same)), layout="constrained")
    axes = drawing.subplots()
    most = np.abs(values).max()
    image = axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    axes.set_yticks(range(len(same)), [cell.task for cell in same])
    vision = values.shape[1] - text
    axes.set_xticks(range(values.shape[1]), [*range(1, text + 1), *range(1, vision + 1)])
    axes.axvline(text - 0.5, color="black", lw=1)
    axes.set_xlabel("text layers, then vision layers")
    drawing.colorbar(image, label="points a root of tokens")
    return drawing


def tables(found: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by the title of their table: one backbone and budget."""
    by: dict[str, list[Cell]] = {}
    for cell in found:
        by.setdefault(f"{cell.backbone}, {cell.total} tokens", []).append(cell)
    return by


def page(found: Sequence[Cell], out: Path) -> None:
    """A table and a picture a backbone and budget."""
    parts = []
    for title, same in tables(found).items():
        drawing = wants_figure(same, same[0].lengths.shape[1] // 2)
        svg = inline_svg(drawing, f"wants{len(parts)}", f"Which layers want tokens, by task: {title}")
        about = "Blue: accuracy rises with the layer's tokens; red: it falls."
        body = table(HEAD, rows(same), "Held-out accuracy in percent.") + figure(svg, about)
        parts.append(section(title, body))
    lead = paragraph("Held-out images of a few-shot draw; no test image. python benchmarks/search_study.py")
    write_page(out, "What is to be gained by placing tokens", lead, parts)


def main() -> None:
    """Train what is missing, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbones", default="toy,toy-deep")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--seeds", default="1,2,3,4")
    parser.add_argument("--shares", default="1/6,1/3,1/2")
    parser.add_argument("--placements", type=int, default=30)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--searched", action="store_true")
    parser.add_argument("--prior", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/search_study.jsonl"))
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    study = Study(
        a.backbones.split(","),
        a.tasks.split(","),
        [int(s) for s in a.seeds.split(",")],
        [Fraction(s) for s in a.shares.split(",")],
        a.placements,
        Recipe(steps=a.steps),
        a.out,
    )
    study.run()
    if a.searched:
        study.searched()
    if a.prior:
        study.prior()
    found = cells(study.records())
    for title, same in tables(found).items():
        print(title)
        for row in [HEAD, *rows(same)]:
            print("| " + " | ".join(row) + " |")
    page(found, a.out.with_suffix(".html"))


if __name__ == "__main__":
    main()
