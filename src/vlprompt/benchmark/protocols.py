"""The four protocols of the field: what a method is trained on and what it is tested on.

One :class:`Cell` is one trained model; :func:`run_cell` trains and tests it and returns its record,
the same numbers every time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

import vlprompt
from vlprompt import data
from vlprompt.benchmark.suites import SUITES, Changes, Suite
from vlprompt.data.identity import dataset_digest
from vlprompt.dataset import Dataset
from vlprompt.engine.precision import worth_trying
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import get_method
from vlprompt.methods.base import Method
from vlprompt.progress import said_before
from vlprompt.training.inputs import Augment
from vlprompt.training.processes import one_thread

RESULTS_VERSION = 2
"""Raised whenever the same cell gives other numbers than before, so that old records are not reused."""

TORCH = torch.__version__.partition("+")[0]

Protocol = Literal["few-shot", "base-to-new", "cross-dataset", "domain"]
SAME = "give every machine the same"
Metrics = dict[str, dict[str, float]]
"""What was tested on -> :func:`vlprompt.metrics.measure`."""
Record = dict[str, Any]
"""One run as JSON; see :func:`run_cell`."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: everything that decides its numbers, and where its images are.

    Args:
        dataset: data set that is trained on.
        settings: changes to the method's published settings (those of its preset, where it has one).
        revision: digest of the model's weights.
        device, precision, torch: where and by what it is computed, which decides the last digits.
        own_method: digest of the file, where the method is one of the user's own; otherwise empty.
        images: digest of the images, where these are the user's own; otherwise empty.
        views: augmented views of each training image whose features are computed once; see
            :class:`vlprompt.PromptClassifier`.
        root: folder of the benchmark's data sets.
        command: what runs this cell alone.
    """

    suite: str
    protocol: Protocol
    dataset: str
    method: str
    settings: Changes = field(default_factory=dict)
    preset: str = ""
    model: str = "toy"
    revision: str | None = None
    shots: int = 16
    seed: int = 1
    augment: Augment = "none"
    device: str = "auto"
    precision: Literal["auto", "no"] = "auto"
    torch: str = TORCH
    own_method: str = ""
    images: str = ""
    views: int = 0
    version: int = RESULTS_VERSION
    root: Path | None = None
    command: str = ""

    @property
    def run(self) -> dict[str, Any]:
        """What decides the numbers, as in the record."""
        values = dataclasses.asdict(self) | {"published": self.published}
        absent = [name for name in ("own_method", "images", "views") if not values[name]]
        for name in ("root", "command", *absent):
            del values[name]
        return values

    @property
    def published(self) -> str:
        """Digest of the settings that ``settings`` changes: a later version may have other defaults."""
        kind = get_method(self.method, files=True)
        values = dataclasses.asdict(kind.settings_for(self.shots, **kind.preset(self.preset)))
        crop = kind.smallest_crop
        return _digest(values | ({} if crop == Method.smallest_crop else {"smallest_crop": crop}))

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for ``run``."""
        return _digest(self.run)


def _digest(values: dict[str, Any]) -> str:
    """16 hexadecimal digits of values that can be JSON."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def own_digest(method: str) -> str:
    """What the user's own files among a method's parts hold."""
    files = [Path(part) for part in method.split("+") if part.endswith(".py")]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16] if files else ""


def run_cell(cell: Cell) -> Record:
    """Train and test one model.

    It runs on one thread: with several, the order of sums and so the numbers could depend on the machine.

    Returns:
        The record, plain JSON: ``key``, ``run``, ``metrics`` by what was tested on, ``lengths`` of the
        context (or None), ``history`` (epochs, first and last loss of each stage), ``seconds``,
        ``parameters`` that were learned, ``finished``, ``version`` of this package, the backbone's ``commit``
        on the hub, ``command``.

    Raises:
        UserError: missing or unusable data, settings that do not fit, a method that cannot do this.
    """
    if cell.own_method != own_digest(cell.method):
        raise UserError(f"method file '{cell.method}' is another here than where the run was planned")
    if cell.torch != TORCH:
        raise UserError(f"torch is {TORCH} here, {cell.torch} where the run was planned: {SAME}")
    if cell.images:
        with said_before():  # by who planned it
            own = dataset_digest(_load(cell.dataset, cell.root))
        if own != cell.images:
            raise UserError(f"the images of '{cell.dataset}' changed meanwhile: give the same command again")
    with one_thread():
        start = time.perf_counter()
        classifier, metrics = PROTOCOLS[cell.protocol](cell)
    method = classifier.method_
    found = method.encoder.backbone.digest
    if cell.revision and found != cell.revision:
        raise UserError(
            f"model '{cell.model}' has the weights {found} here, {cell.revision} where the run was planned: "
            f"{SAME}"
        )
    if cell.revision and cell.precision == "auto" and not worth_trying(method.encoder):
        raise UserError(f"there is no bfloat16 here, as there is where the run was planned: {SAME}")
    return {
        "key": cell.key,
        "run": cell.run,
        "metrics": metrics,
        "lengths": dataclasses.asdict(method.lengths) if method.lengths else None,
        "history": _summary(classifier.history_),
        "seconds": round(time.perf_counter() - start, 2),
        "parameters": sum(p.numel() for p in method.parameters() if p.is_floating_point()),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": vlprompt.__version__,
        "commit": method.encoder.backbone.revision,
        "command": cell.command,
    }


# The protocols.


def few_shot(cell: Cell) -> tuple[PromptClassifier, Metrics]:
    """Train on all classes, test on all."""
    dataset = _sample(cell, _suite(cell).prefix + cell.dataset)
    classifier = _fit(cell, dataset)
    return classifier, {"test": classifier.evaluate(dataset.test)}


def base_to_new(cell: Cell) -> tuple[PromptClassifier, Metrics]:
    """Train on the first half of the classes, test on them and, by their names alone, on the others."""
    dataset = _sample(cell, _suite(cell).prefix + cell.dataset)
    base, new = data.subsample(dataset, "base"), data.subsample(dataset, "new")
    if get_method(cell.method, files=True).transductive:  # on images of all classes, as published
        classifier = _fit(cell, dataset)
        return classifier, {"base": _transfer(classifier, base), "new": _transfer(classifier, new)}
    classifier = _fit(cell, base)
    return classifier, {"base": classifier.evaluate(base.test), "new": _transfer(classifier, new)}


def cross_dataset(cell: Cell) -> tuple[PromptClassifier, Metrics]:
    """Train on one data set, test on the suite's others with their own class names and templates."""
    suite = _suite(cell)
    targets = {name: suite.prefix + name for name in suite.datasets if name != cell.dataset}
    return _train_and_transfer(cell, "source", targets)


def domain(cell: Cell) -> tuple[PromptClassifier, Metrics]:
    """Train on one data set, test on shifted versions of it."""
    return _train_and_transfer(cell, "test", _suite(cell).shifts)


PROTOCOLS: dict[Protocol, Callable[[Cell], tuple[PromptClassifier, Metrics]]] = {
    "few-shot": few_shot,
    "base-to-new": base_to_new,
    "cross-dataset": cross_dataset,
    "domain": domain,
}
FROM_SOURCE = ("cross-dataset", "domain")
"""Protocols that train on the suite's source only."""
NEW_CLASSES = ("base-to-new", "cross-dataset")
"""Protocols that test on classes that were not trained on."""


def preset_of(protocol: Protocol, presets: dict[str, Changes]) -> str:
    """Which of a method's presets was published for a protocol; "" is its ordinary settings."""
    wanted = "cross-dataset" if protocol in FROM_SOURCE else protocol
    return wanted if wanted in presets else ""


# What they share.


def _train_and_transfer(cell: Cell, own: str, targets: dict[str, str]) -> tuple[PromptClassifier, Metrics]:
    """Train on the cell's data set, test on it (named ``own``) and on the targets."""
    source = _sample(cell, _suite(cell).prefix + cell.dataset)
    classifier = _fit(cell, source)
    metrics = {own: classifier.evaluate(source.test)}
    for name, target in targets.items():
        metrics[name] = _transfer(classifier, _sample(cell, target))
    return classifier, metrics


def _fit(cell: Cell, dataset: Dataset) -> PromptClassifier:
    kind = get_method(cell.method, files=True)
    preset = kind.preset(cell.preset)
    # All settings are named: some depend on the shots, and a class may have fewer images than those.
    settings = dataclasses.asdict(kind.settings_for(cell.shots, **preset | cell.settings))
    how: dict[str, Any] = {"augment": cell.augment, "views": cell.views, "seed": cell.seed}
    how |= {"device": cell.device, "precision": cell.precision}
    return PromptClassifier(cell.method, cell.model, settings, cell.preset, **how).fit_dataset(dataset)


def _transfer(classifier: PromptClassifier, dataset: Dataset) -> dict[str, float]:
    """Test on a data set's classes by their names and templates."""
    return classifier.set_classes(dataset.classnames, dataset.templates).evaluate(dataset.test)


def _suite(cell: Cell) -> Suite:
    return SUITES[cell.suite]


def _sample(cell: Cell, name: str) -> Dataset:
    return data.few_shot(_load(name, cell.root), cell.shots, cell.seed)


@lru_cache(maxsize=32)
def _load(name: str, root: Path | None) -> Dataset:
    """A data set; a process runs many cells and reads each data set once."""
    return data.load(name, root)


def _summary(history: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Epochs, first and last loss of each stage."""
    stages: dict[str, list[float]] = {}
    for epoch in history:
        stages.setdefault(epoch["stage"], []).append(epoch["loss"])
    return {
        stage: {"epochs": len(losses), "first_loss": losses[0], "last_loss": losses[-1]}
        for stage, losses in stages.items()
    }
