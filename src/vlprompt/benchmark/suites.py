"""Suites: which data sets a benchmark takes, what models of its source are tested on, how it trains.

Names only; images come from :func:`vlprompt.data.load` when a run needs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from vlprompt.methods import all_methods
from vlprompt.toy.tasks import SHIFTS, TASKS
from vlprompt.training.inputs import Augment

Changes = dict[str, Any]
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
        settings: changes to published settings by method, or by "method@dataset" for one data set, or by
            "method@dataset/preset" where the method's preset for a protocol is taken.
        seconds: rough time on one core of a run through the image branch, before any run is recorded.
    """

    datasets: tuple[str, ...]
    source: str
    shifts: dict[str, str]
    augment: Augment
    seconds: float
    prefix: str = ""
    needs_root: bool = False
    settings: dict[str, Changes] = field(default_factory=dict)

    def settings_for(self, method: str, dataset: str, preset: str = "") -> Changes:
        """Changes for a method on a data set; of ``dpl+mmrl`` those of ``dpl`` and of what ``mmrl`` adds."""
        name, *added = method.split("+")
        found: Changes = {}
        for part in added:
            kind = all_methods()[part].added if part in all_methods() else None
            known = {f.name for f in fields(kind.Settings)} if kind else set()
            found |= {k: v for k, v in self._changes(part, dataset, preset).items() if k in known}
        return found | self._changes(name, dataset, preset)

    def _changes(self, name: str, dataset: str, preset: str) -> Changes:
        keys = name, f"{name}@{dataset}", f"{name}@{dataset}/{preset}"
        return {k: v for key in keys for k, v in self.settings.get(key, {}).items()}


# The built-in tasks have 160 to 1,280 training images and two cores: far fewer steps than published, with
# an optimiser that gets far in them. Learning rates of CoOp, VPT, IVLP and MaPLe were chosen on validation
# and unused training images of a few tasks; epochs by the time they take; the rest was not tuned.
_FEATURES: Changes = {"optimizer": "adamw", "lr": 0.005, "epochs": 40}
"""Text context only: image features are constants, a step is cheap."""
_PIXELS: Changes = {"optimizer": "adamw", "lr": 0.01, "batch_size": 4, "epochs": 15}
"""Visual prompts: every step runs the image branch."""
_TOY: dict[str, Changes] = {
    "coop": _FEATURES,
    "kgcoop": _FEATURES | {"batch_size": 32},
    "prograd": _FEATURES,
    "genpt": _FEATURES,
    "cocoop": {"optimizer": "adamw", "lr": 0.005, "batch_size": 8, "epochs": 8},
    # As many tokens as IVLP: two a layer and branch.
    "vpt": _PIXELS | {"n_ctx": 4},
    "ivlp": _PIXELS,
    "maple": _PIXELS,
    "promptsrc": _PIXELS | {"n_ctx": 2, "gpa_mean": 13.0, "gpa_std": 2.0},
    "dpl": _PIXELS,
    # None of those below was tuned: rates and epochs of their kind, and layers that four layers have.
    "atprompt": _FEATURES,
    "tcp": _FEATURES | {"eps": 1e-8, "class_layer": 3},
    "clip_adapter": _FEATURES,
    "taskres": _FEATURES,
    "coprompt": _PIXELS | {"epochs": 8},
    "mmrl": {"lr": 0.002, "batch_size": 8, "start": 3},
    "mma": {"optimizer": "adamw", "lr": 0.001, "epochs": 10, "start": 2, "scale": 0.01},
    "clip_lora": {"lr": 0.002, "epochs": 10},
    "promptkd": _PIXELS | {"batch_size": 8},
}
_LARGE_PIXELS: Changes = {"epochs": 4, "batch_size": 16}
_TEXT = ("coop", "kgcoop", "prograd", "genpt", "atprompt", "tcp")
_LARGE: dict[str, Changes] = {n: {"epochs": 10} for n in (*_TEXT, "taskres", "clip_adapter")} | {
    "cocoop": {"epochs": 2},
    "vpt": _LARGE_PIXELS,
    "ivlp": _LARGE_PIXELS,
    "maple": _LARGE_PIXELS,
    "promptsrc": _LARGE_PIXELS | {"gpa_mean": 4.0, "gpa_std": 1.0},
    "coprompt": _LARGE_PIXELS,
    "promptkd": _LARGE_PIXELS,
    **{n: {"epochs": 3, "batch_size": 16} for n in ("mmrl", "mma", "clip_lora")},
    "dpl": _LARGE_PIXELS,
}
"""Tasks with more than a thousand training images, 64 and 80 classes."""
TOY_SETTINGS = _TOY | {
    f"{name}@{task}": settings
    for name, settings in _LARGE.items()
    for task in ("coloured-shapes", "textured-shapes")
}

MMRL_WEIGHTS = {
    "stanfordcars": 7.0, "fgvcaircraft": 6.0, "sun397": 6.0, "dtd": 6.0, "food101": 5.0, "flowers102": 4.0,
    "ucf101": 3.0, "oxfordpets": 0.2,
}  # fmt: skip
ATTRIBUTES = {
    "imagenet": ("color", "shape"), "caltech101": ("shape", "size"), "oxfordpets": ("playfulness", "energy"),
    "stanfordcars": ("luxury",), "flowers102": ("color", "habitat", "growth"),
    "food101": ("flavor", "preparation"), "fgvcaircraft": ("design", "range"), "sun397": ("function",),
    "dtd": ("pattern", "color", "design"), "eurosat": ("habitat",), "ucf101": ("precision",),
}  # fmt: skip
"""Searched once for each data set by ATPrompt's authors."""
IMAGENET_SETTINGS: dict[str, Changes] = {
    "coop@imagenet": {"epochs": 50},
    "prograd@imagenet": {"epochs": 50},
    "taskres@imagenet": {"lr": 2e-4},
    "taskres@flowers102": {"alpha": 1.0},
    "mma@imagenet": {"batch_size": 128},
    "mmrl@imagenet": {"batch_size": 32, "epochs": 5},
    "mmrl@imagenet/cross-dataset": {"epochs": 1},
    "mmrl@eurosat": {"width": 2048, "regularization": 0.01},
    **{f"promptkd@{name}": {"distill": 200.0} for name in ("fgvcaircraft", "flowers102", "dtd")},
    **{f"mmrl@{name}": {"regularization": weight} for name, weight in MMRL_WEIGHTS.items()},
    **{f"atprompt@{name}": {"attributes": words} for name, words in ATTRIBUTES.items()},
}
"""Published settings that differ by data set."""

OWN = "own"
"""Suite of the user's own images: any data set, few-shot only."""
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
    OWN: Suite(datasets=(), source="", shifts={}, augment="crop+flip", seconds=60.0),
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
