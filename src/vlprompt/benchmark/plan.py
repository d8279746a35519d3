"""Which runs a benchmark consists of, which of them are missing, and how long these will take."""

from __future__ import annotations

import dataclasses
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlprompt.benchmark.changes import parse_changes
from vlprompt.benchmark.protocols import (
    FROM_SOURCE,
    NEW_CLASSES,
    PROTOCOLS,
    Cell,
    Protocol,
    own_digest,
    preset_of,
)
from vlprompt.benchmark.suites import SUITES, Changes
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.methods import get_method


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to be compared; every combination is one run."""

    suite: str
    methods: Sequence[str]
    datasets: Sequence[str]
    protocols: Sequence[Protocol]
    shots: Sequence[int]
    seeds: Sequence[int]
    changes: Sequence[str] = ()
    model: str = "toy"
    root: Path | None = None


@dataclass(frozen=True)
class Plan:
    """Runs of a choice.

    Args:
        cells: all of them.
        missing: those that are not recorded yet.
        seconds: estimated time of the missing ones.
        left_out: what cannot be done at all, a line each.
    """

    cells: list[Cell]
    missing: list[Cell]
    seconds: float
    left_out: list[str] = field(default_factory=list)


def make_plan(choice: Choice, records: Sequence[Mapping[str, Any]], workers: int) -> Plan:
    """The runs of a choice, those that are missing from records, and how long these will take.

    Raises:
        UserError: unknown names or settings, no such model, no root.
    """
    _check(choice)
    encoder = Encoder(load_backbone(choice.model))
    changes = parse_changes(choice.changes, choice.methods)
    cells: list[Cell] = []
    left_out: list[str] = []
    for protocol in dict.fromkeys(choice.protocols):
        for method in dict.fromkeys(choice.methods):
            made = list(_cells(choice, protocol, method, changes.get(method, {}), encoder))
            problem = _refusal(made[0], encoder) if protocol in NEW_CLASSES and made else ""
            if problem:
                left_out.append(f"{method} is left out of {protocol}: {problem}")
            else:
                cells += made
    cells.sort(key=lambda cell: cell.seed)  # every method has a first number early
    recorded = {record["key"] for record in records}
    missing = [cell for cell in cells if cell.key not in recorded]
    return Plan(cells, missing, _estimate(missing, records) / workers, left_out)


def _check(choice: Choice) -> None:
    suite = SUITES[choice.suite]
    for what, given, known in (
        ("data set", choice.datasets, suite.datasets),
        ("protocol", choice.protocols, PROTOCOLS),
    ):
        for name in given:
            if name not in known:
                raise UserError(
                    f"unknown {what} '{name}' in suite '{choice.suite}': there are {', '.join(known)}"
                )
    for option in ("methods", "shots", "seeds"):
        if not getattr(choice, option):
            raise UserError(f"--{option} is empty: give one or more")
    if min(choice.shots) < 1:
        raise UserError(f"--shots {min(choice.shots)}: give 1 or more images a class")
    if suite.needs_root and choice.root is None:
        raise UserError(f"suite '{choice.suite}' needs its images: give --root FOLDER")


def _cells(
    choice: Choice, protocol: Protocol, method: str, changes: Changes, encoder: Encoder
) -> Iterator[Cell]:
    """Cells of one method in one protocol."""
    suite, kind = SUITES[choice.suite], get_method(method, files=True)
    preset = preset_of(protocol, kind.presets)
    published = kind.preset(preset)
    datasets = (suite.source,) if protocol in FROM_SOURCE else tuple(dict.fromkeys(choice.datasets))
    for shots in sorted(set(choice.shots)) if protocol == "few-shot" else [max(choice.shots)]:
        basis = kind.settings_for(shots, **published)
        for dataset in datasets:
            usual = kind.settings_for(shots, **published | suite.settings_for(method, dataset))
            wanted = dataclasses.replace(usual, **changes)
            for seed in dict.fromkeys(choice.seeds):
                cell = Cell(
                    suite=choice.suite,
                    protocol=protocol,
                    dataset=dataset,
                    method=method,
                    settings=_difference(wanted, basis),
                    preset=preset,
                    model=choice.model,
                    revision=encoder.backbone.digest,
                    shots=shots,
                    seed=seed,
                    augment=suite.augment,
                    own_method=own_digest(method),
                    root=choice.root,
                )
                yield dataclasses.replace(cell, command=_command(cell, _difference(wanted, usual)))


def _difference(settings: Any, other: Any) -> Changes:
    """Values of ``settings`` that are not those of ``other``."""
    theirs = dataclasses.asdict(other)
    return {name: v for name, v in dataclasses.asdict(settings).items() if v != theirs[name]}


def _command(cell: Cell, changes: Changes) -> str:
    """The command that runs one cell anew."""
    words = ["vlprompt", "bench", "--suite", cell.suite, "--protocols", cell.protocol]
    words += [] if cell.protocol in FROM_SOURCE else ["--datasets", cell.dataset]
    words += ["--methods", cell.method, "--shots", str(cell.shots), "--seeds", str(cell.seed)]
    words += ["--model", cell.model] + (["--root", str(cell.root)] if cell.root else [])
    for name, value in changes.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += ["--set", f"{cell.method}.{name}={text}"]
    return shlex.join([*words, "--out", "out/again"])


def _refusal(cell: Cell, encoder: Encoder) -> str:
    """Why a method cannot classify into classes that it was not trained on; "" where it can."""
    kind = get_method(cell.method, files=True)
    published = kind.preset(cell.preset)
    settings = kind.settings_for(cell.shots, **published | cell.settings)
    method = kind(encoder, ("cat", "dog"), settings)
    try:
        method.transfer(("car", "plane", "ship"))
    except UserError as error:
        return str(error)
    return ""


def _estimate(missing: Sequence[Cell], records: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of runs one after the other, from recorded runs of the same kind where there are some."""
    known: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        run = record["run"]
        for kind in _kinds(run):
            known.setdefault(kind, []).append(record["seconds"])
    medians = {kind: statistics.median(values) for kind, values in known.items()}
    return sum(
        next((medians[kind] for kind in _kinds(cell.run) if kind in medians), SUITES[cell.suite].seconds)
        for cell in missing
    )


def _kinds(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Runs that take about as long, the most alike first."""
    names = ["suite", "model", "method", "protocol", "dataset"]
    return [tuple(str(run[name]) for name in names[:count]) for count in (5, 4, 3)]
