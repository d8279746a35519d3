"""Which runs a benchmark consists of, which of them are missing, and how long these will take."""

from __future__ import annotations

import dataclasses
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

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
from vlprompt.benchmark.suites import OWN, SUITES, Changes
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.devices import pick_device
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.precision import worth_trying
from vlprompt.errors import UserError
from vlprompt.estimator.fitting import augmentation, check_required
from vlprompt.methods import get_method
from vlprompt.methods.base import Method
from vlprompt.training.options import check_seeds
from vlprompt.typed import Between, checked

SHARES = {"pixels": 1.0, "features": 0.15, "nothing": 0.05}
"""Rough time of a run by what its training needs, as a share of the suite's."""
SHORT = ("a", "b", "c")
"""Class names to try a method with: what has no room for these has none for any."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to be compared; every combination is one run.

    Args:
        images: digest of the user's own images, where these are compared on.
        views: see :class:`vlprompt.benchmark.protocols.Cell`; of methods that learn from features.
    """

    suite: str
    methods: Sequence[str]
    datasets: Sequence[str]
    protocols: Sequence[Protocol]
    shots: Sequence[int]
    seeds: Sequence[int]
    changes: Sequence[str] = ()
    model: str = "toy"
    device: str = "auto"
    root: Path | None = None
    images: str = ""
    views: int = 0


@dataclass(frozen=True)
class Plan:
    """Runs of a choice.

    Args:
        cells: all of them.
        missing: those that are not recorded yet.
        seconds: estimated time of the missing ones.
        measured: whether that follows from recorded runs alone.
        left_out: what cannot be done at all, a line each.
    """

    cells: list[Cell]
    missing: list[Cell]
    seconds: float
    left_out: list[str] = field(default_factory=list)
    measured: bool = True


def make_plan(choice: Choice, records: Sequence[Mapping[str, Any]], workers: int) -> Plan:
    """The runs of a choice, those that are missing from records, and how long these will take.

    Raises:
        UserError: unknown names or settings, no such model, no root; a change that no run could be done with.
    """
    _check(choice)
    encoder = Encoder(load_backbone(choice.model))
    changes = parse_changes(choice.changes, choice.methods)
    cells: list[Cell] = []
    left_out: list[str] = []
    for protocol in dict.fromkeys(choice.protocols):
        for method in dict.fromkeys(choice.methods):
            made = list(_cells(choice, protocol, method, changes.get(method, {}), encoder))
            problem = _refusal(made[0], encoder, changed=method in changes) if made else ""
            if problem:
                left_out.append(f"{method} is left out of {protocol}: {problem}")
            else:
                cells += made
    cells.sort(key=lambda cell: cell.seed)  # every method has a first number early
    recorded = {record["key"] for record in records}
    missing = [cell for cell in cells if cell.key not in recorded]
    seconds, measured = _estimate(missing, records, encoder)
    if choice.suite == OWN:  # the longest first: no process waits for another at the end
        missing.sort(key=lambda cell: -seconds[cell.key])
    return Plan(cells, missing, sum(seconds.values()) / workers, left_out, measured)


def _check(choice: Choice) -> None:
    suite = SUITES[choice.suite]
    for what, given, known in (
        ("data set", choice.datasets, suite.datasets or choice.datasets),
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
    check_seeds(choice.seeds)
    for shots in choice.shots:
        checked(shots, Annotated[int, Between(1, 1_000_000)], "--shots")
    if suite.needs_root and choice.root is None:
        raise UserError(f"suite '{choice.suite}' needs its images: give --root FOLDER")
    if choice.root is not None and not choice.root.is_dir():
        raise UserError(f"root '{choice.root}' is no folder: give the folder that holds the data sets")


def _cells(
    choice: Choice, protocol: Protocol, method: str, changes: Changes, encoder: Encoder
) -> Iterator[Cell]:
    """Cells of one method in one protocol."""
    suite, kind = SUITES[choice.suite], get_method(method, files=True)
    preset = preset_of(protocol, kind.presets)
    published = kind.preset(preset)
    augment = augmentation("auto", choice.model) if choice.suite == OWN else suite.augment
    device = pick_device("auto").type if choice.device == "auto" else choice.device
    half = worth_trying(encoder, torch.device(device))
    datasets = (suite.source,) if protocol in FROM_SOURCE else tuple(dict.fromkeys(choice.datasets))
    for shots in sorted(set(choice.shots)) if protocol == "few-shot" else [max(choice.shots)]:
        basis = kind.settings_for(shots, **published)
        for dataset in datasets:
            usual = kind.settings_for(shots, **published | suite.settings_for(method, dataset, preset))
            wanted = dataclasses.replace(usual, **changes)
            features = choice.views and augment != "none" and needs(kind, wanted, encoder) == "features"
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
                    augment=augment,
                    device=device,
                    precision="auto" if half else "no",
                    own_method=own_digest(method),
                    images=choice.images,
                    views=choice.views if features else 0,
                    root=choice.root,
                )
                yield dataclasses.replace(cell, command=_command(cell, _difference(wanted, usual)))


def _difference(settings: Any, other: Any) -> Changes:
    """Values of ``settings`` that are not those of ``other``."""
    theirs = dataclasses.asdict(other)
    return {name: v for name, v in dataclasses.asdict(settings).items() if v != theirs[name]}


def _command(cell: Cell, changes: Changes) -> str:
    """The command that runs one cell anew."""
    if cell.suite == OWN:
        words = ["vlprompt", "compare", cell.dataset] + (["--views", str(cell.views)] if cell.views else [])
    else:
        words = ["vlprompt", "bench", "--suite", cell.suite, "--protocols", cell.protocol]
        words += [] if cell.protocol in FROM_SOURCE else ["--datasets", cell.dataset]
    words += ["--methods", cell.method, "--shots", str(cell.shots), "--seeds", str(cell.seed)]
    words += ["--model", cell.model] + ([] if cell.suite == OWN else ["--device", cell.device])
    words += ["--root", str(cell.root)] if cell.root else []
    for name, value in changes.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += ["--set", f"{cell.method}.{name}={text}"]
    return shlex.join([*words, "--out", "out/again"])


def needs(kind: type[Method], settings: Any, encoder: Encoder) -> Literal["nothing", "features", "pixels"]:
    """What the steps of a method's training need; what cannot be built will say so when it is run."""
    try:
        method = kind(encoder, SHORT[:2], settings)
    except UserError:
        return "nothing"
    return "nothing" if not method.trains else "pixels" if method.has_visual_prompts else "features"


def settings_of(cell: Cell) -> Any:
    """All settings of a run."""
    kind = get_method(cell.method, files=True)
    return kind.settings_for(cell.shots, **kind.preset(cell.preset) | cell.settings)


def _refusal(cell: Cell, encoder: Encoder, *, changed: bool) -> str:
    """Why a method cannot be trained so, or not classify into classes that are new to it; "" where it can.

    Raises:
        UserError: it cannot be made with settings that the user changed.
    """
    kind, settings = get_method(cell.method, files=True), settings_of(cell)
    new = cell.protocol in NEW_CLASSES and not (kind.transductive and cell.protocol == "base-to-new")
    try:
        check_required(kind, settings)
        method = kind(encoder, SHORT[:2], settings) if new or changed else None
    except UserError as error:
        if changed:
            raise UserError(f"method '{cell.method}' with its --set: {error}") from error
        return str(error)
    try:
        if new and method:
            method.transfer(SHORT)
    except UserError as error:
        return str(error)
    return ""


def _estimate(
    missing: Sequence[Cell], records: Sequence[Mapping[str, Any]], encoder: Encoder
) -> tuple[dict[str, float], bool]:
    """Seconds of runs by key, and whether recorded runs of their kinds say so."""
    known: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        run = record["run"]
        for kind in _kinds(run):
            known.setdefault(kind, []).append(record["seconds"])
    medians = {kind: statistics.median(values) for kind, values in known.items()}
    found = [next((medians[k] for k in _kinds(cell.run) if k in medians), None) for cell in missing]
    first = {cell.method: cell for cell in reversed(missing)}
    kinds = {
        name: needs(get_method(name, files=True), settings_of(cell), encoder) for name, cell in first.items()
    }
    rough = [SUITES[cell.suite].seconds * SHARES[kinds[cell.method]] for cell in missing]
    seconds = {
        cell.key: guess if known is None else known
        for cell, known, guess in zip(missing, found, rough, strict=True)
    }
    return seconds, None not in found


def _kinds(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Runs that take about as long, the most alike first."""
    names = ["suite", "model", "method", "protocol", "dataset"]
    return [tuple(str(run[name]) for name in names[:count]) for count in (5, 4, 3)]
