"""Methods compared on the user's own images: which runs, and on which of them.

It is the benchmark's few-shot protocol on one data set: each seed draws its training images, and what it
leaves is held out for testing. ``vlprompt fit`` with the same seed draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlprompt import data
from vlprompt.benchmark.features import images_digest
from vlprompt.benchmark.plan import Choice
from vlprompt.benchmark.suites import OWN
from vlprompt.data.fewshot import MAX_VAL_SHOTS, by_label
from vlprompt.dataset import Dataset
from vlprompt.errors import UserError
from vlprompt.typed import Views, checked

SHOTS = 16
"""Training images a class, as in the field's tables, where the images are enough."""
HELD_OUT = 4
"""One image in so many is for testing at least, where the shots are not given."""


def choice_of(
    name: str,
    *,
    methods: Sequence[str],
    shots: int | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    changes: Sequence[str] = (),
    model: str = "toy",
    root: Path | None = None,
    views: int = 0,
    features: Path,
) -> Choice:
    """The runs that compare methods on images.

    Args:
        name: what :func:`vlprompt.data.load` takes.
        shots: training images a class; by default 16, or fewer where too few would be left for testing.
        features: folder where frozen features are kept.

    Raises:
        UserError: no such data; no images would be left for testing.
    """
    checked(views, Views, "views")
    dataset = data.load(name, root)
    return Choice(
        suite=OWN,
        methods=methods,
        datasets=(name if ":" in name else str(Path(name)),),
        protocols=("few-shot",),
        shots=(testable_shots(dataset, shots),),
        seeds=seeds,
        changes=changes,
        model=model,
        root=root,
        images=images_digest(dataset),
        views=views,
        features=features,
    )


def testable_shots(dataset: Dataset, shots: int | None) -> int:
    """Training images a class that leave some of each class for testing.

    Raises:
        UserError: a class has too few images for the shots, or for any.
    """
    members = by_label(dataset.train)
    fewest, label = min((len(members.get(k, ())), k) for k in range(len(dataset.classnames)))
    if dataset.test:
        return SHOTS if shots is None else shots
    if dataset.val:
        raise UserError(f"'{dataset.name}' has no test images: add some, or leave the splits out")
    most = max((n for n in range(fewest) if n + min(n, MAX_VAL_SHOTS) < fewest), default=0)
    if not most or (shots or 0) > most:
        few = f"give --shots {most} or fewer" if most else "add images"
        raise UserError(
            f"class '{dataset.classnames[label]}' of '{dataset.name}' has {fewest} images: with "
            f"{shots or 1} for training and up to {MAX_VAL_SHOTS} for validation none is left for testing: "
            f"{few}"
        )
    usual = fewest - max(fewest // HELD_OUT, 1) - MAX_VAL_SHOTS
    return min(SHOTS, max(usual, 1), most) if shots is None else shots
