"""Suites: which data sets a benchmark takes, what models of its source are tested on, how it trains.

Names only; images come from :func:`vlprompt.data.load` when a run needs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vlprompt.inputs import Augment
from vlprompt.toy.tasks import SHIFTS, TASKS

Settings = dict[str, Any]
"""Changes to a method's published settings, by name."""


@dataclass(frozen=True)
class Suite:
    """A family of data sets that methods are compared on.

    Args:
        datasets: names in tables and records.
        source: data set that cross-dataset and domain generalisation train on.
        shifts: name of a shifted version of the source -> what :func:`vlprompt.data.load` takes.
        augment: augmentation in training.
        prefix: what :func:`vlprompt.data.load` wants before a data set's name.
        needs_root: whether the images lie in a folder of the user's.
        settings: changes to published settings by method, or by "method@dataset" for one data set.
        seconds: rough time of one run on one core, for an estimate before any run is recorded.
    """

    datasets: tuple[str, ...]
    source: str
    shifts: dict[str, str]
    augment: Augment
    seconds: float
    prefix: str = ""
    needs_root: bool = False
    settings: dict[str, Settings] = field(default_factory=dict)

    def settings_for(self, method: str, dataset: str) -> Settings:
        """Changes for a method (of ``dpl+kgcoop``: for ``dpl``) on a data set."""
        name = method.split("+")[0]
        return self.settings.get(name, {}) | self.settings.get(f"{name}@{dataset}", {})


# The published epochs and batches take up to 64,000 steps on the largest task (80 classes, 1,280
# images); these take at most 600 a stage there. PromptSRC's average moves with its epochs.
_SHORT: Settings = {"epochs": 15, "batch_size": 32}
TOY_SETTINGS: dict[str, Settings] = {
    "coop": _SHORT,
    "cocoop": {"epochs": 2, "batch_size": 8},
    "vpt": _SHORT,
    "ivlp": _SHORT,
    "maple": _SHORT,
    "kgcoop": _SHORT,
    "prograd": _SHORT,
    "promptsrc": _SHORT | {"gpa_mean": 11.0, "gpa_std": 1.0},
    "genpt": _SHORT,
    "dpl": _SHORT | {"search_epochs": 15},
}

IMAGENET_SETTINGS: dict[str, Settings] = {
    "coop@imagenet": {"epochs": 50},
    "prograd@imagenet": {"epochs": 50},
}
"""Published settings that differ on ImageNet."""

SUITES = {
    "toy": Suite(
        datasets=TASKS,
        source="coloured-shapes",
        shifts={shift: f"toy:coloured-shapes@{shift}" for shift in SHIFTS},
        augment="none",  # a crop of a picture of 32 pixels leaves too little
        seconds=60.0,
        prefix="toy:",
        settings=TOY_SETTINGS,
    ),
    "benchmark": Suite(
        datasets=(
            "imagenet", "caltech101", "oxfordpets", "stanfordcars", "flowers102", "food101",
            "fgvcaircraft", "sun397", "dtd", "eurosat", "ucf101",
        ),
        source="imagenet",
        shifts={n: n for n in ("imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r")},
        augment="crop+flip",
        seconds=1800.0,
        needs_root=True,
        settings=IMAGENET_SETTINGS,
    ),
}  # fmt: skip
