"""Methods compared on the user's own images: which runs, and on which of them.

It is the benchmark's few-shot protocol on one data set: each seed draws its training images, and what it
leaves is held out for testing. ``vlprompt fit`` with the same seed draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlprompt import data
from vlprompt.benchmark.plan import Choice, Plan, needs, settings_of
from vlprompt.benchmark.suites import OWN
from vlprompt.data.fewshot import MAX_VAL_SHOTS, by_label
from vlprompt.data.identity import dataset_digest
from vlprompt.dataset import Dataset
from vlprompt.engine.backbones.load import shared_backbone
from vlprompt.engine.devices import pick_device
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import get_method
from vlprompt.progress import said_before
from vlprompt.training.frozen import image_features, view_features
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
) -> Choice:
    """The runs that compare methods on images.

    Args:
        name: what :func:`vlprompt.data.load` takes.
        shots: training images a class; by default 16, or fewer where too few would be left for testing.

    Raises:
        UserError: no such data; no images would be left for testing.
    """
    checked(views, Views, "views")
    dataset = data.load(name, root)
    if dataset.texts:
        raise UserError(f"'{name}' holds texts: compare methods on images, or fit one after the other")
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
        images=dataset_digest(dataset),
        views=views,
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


def encode_once(plan: Plan) -> None:
    """Have the frozen features that the missing runs need in the store, so that no two compute them."""
    kinds: dict[str, str] = {}
    for cell in plan.missing:
        if cell.method not in kinds:
            encoder = Encoder(shared_backbone(cell.model, pick_device("auto")))
            if encoder.store is None:
                return
            kinds[cell.method] = needs(get_method(cell.method, files=True), settings_of(cell), encoder)
    runs = {(c.seed, c.views): c for c in plan.missing if kinds[c.method] != "pixels"}
    with said_before():
        dataset = data.load(plan.missing[0].dataset, plan.missing[0].root)
    for cell in runs.values():
        sample = data.few_shot(dataset, cell.shots, cell.seed)
        # Zero-shot, for it computes in the precision that all others find, too.
        encoder = PromptClassifier("zeroshot", cell.model).fit_dataset(sample).method_.encoder
        image_features(encoder, [i.image for i in (*dataset.train, *dataset.val, *dataset.test)], show=True)
        if cell.views and cell.augment != "none":
            images = [item.image for item in sample.train]
            view_features(encoder, images, cell.augment, cell.views, show=True)
