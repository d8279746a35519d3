"""What ``fit`` settles before anything is trained: settings, templates, splits, precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vlprompt.dataset import Dataset, ImageSource, Item
from vlprompt.engine.backbones.load import BUILT_IN
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.precision import STANDS, change, worth_trying
from vlprompt.errors import UserError
from vlprompt.methods.base import Method
from vlprompt.methods.templates import template_features
from vlprompt.progress import say
from vlprompt.training.frozen import image_features
from vlprompt.training.imageset import ImageSet
from vlprompt.training.inputs import Augment, make_image_set
from vlprompt.training.pixels import plain_pixels
from vlprompt.typed import Views, checked

VALIDATION = 4
"""Images a class that ``fit(X, y)`` holds out for a method that learns on validation images."""

FIRST = 16
"""Images on which the change by bfloat16 is measured."""


def settings_for(kind: type[Method], dataset: Dataset, changes: dict[str, Any]) -> Any:
    """A method's published settings for as many images a class as there are, with changes.

    Raises:
        UserError: a change of what is no setting, or to a value that cannot be.
    """
    known = {f.name for f in fields(kind.Settings)}
    for name in changes:
        if name not in known:
            raise UserError(
                f"method '{kind.name}' has no setting '{name}': there are {', '.join(sorted(known))}"
            )
    return kind.settings_for(len(dataset.train) // len(dataset.classnames), **changes)


def check_required(kind: type[Method], settings: Any) -> None:
    """Refuse settings that lack what the method cannot be trained without.

    Raises:
        UserError: names the first.
    """
    for name in kind.requires:
        if not getattr(settings, name):
            raise UserError(
                f"method '{kind.name}' cannot be trained without a {name}: give the setting '{name}' "
                f"('vlprompt fit --method {kind.name} --help' says what it is)"
            )


PARAMETERS = {
    "method": str,
    "model": str,
    "settings": dict[str, Any] | None,
    "preset": str,
    "augment": Literal["auto", "crop+flip", "crop", "gentle", "none"],
    "views": Views,
    "device": str,
    "verbose": bool,
}
"""Types of the estimator's parameters; those of the training have theirs in ``TrainOptions``."""


def check_parameters(given: Mapping[str, Any]) -> None:
    """Refuse parameters of other types.

    Raises:
        UserError: names the parameter and the value.
    """
    for name, value in given.items():
        if hint := PARAMETERS.get(name):
            checked(str(value) if isinstance(value, Path) else value, hint, name)


def augmentation(augment: Augment | Literal["auto"], model: str) -> Augment:
    """What ``auto`` is: as published, and none for a built-in backbone, whose pictures are tiny."""
    return augment if augment != "auto" else "none" if model in BUILT_IN else "crop+flip"


def what_is_faster(method: Method, augment: Augment, views: int) -> str:
    """What would train faster than this does, in words; empty where nothing would."""
    if method.has_visual_prompts:
        return "a method without visual prompts, such as coop, with --views 10"
    if augment == "none" or views:
        return ""
    return "--views 10 encodes ten views of each image once, not a new one at every step"


def why_no_views(method: Method, augment: Augment) -> str:
    """Why cached views are of no use, in words; empty where they are."""
    if not method.trains:
        return f"{method.title} is not trained in steps"
    if method.has_visual_prompts:
        return f"{method.title} runs the image branch at every step"
    return "images are not augmented, so that each is encoded once" if augment == "none" else ""


def check_classnames(classnames: Iterable[str]) -> tuple[str, ...]:
    """The names; refuses one text instead of several, other things than texts, and none at all."""
    if isinstance(classnames, str | bytes) or not isinstance(classnames, Iterable):
        raise UserError(f"class names {classnames!r} are no list: give one of names")
    names = tuple(classnames)
    for name in names or ("",):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"class name {name!r}: give a text for every class")
    return names


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates without a place for the class name, and none at all."""
    if isinstance(templates, str) or not isinstance(templates, Sequence):
        raise UserError(f"templates '{templates}' are no list: give one of templates")
    for template in templates or ("",):
        if not isinstance(template, str) or "{}" not in template:
            raise UserError(f"template '{template}': it needs {{}} where the class name shall stand")


def set_aside(items: Sequence[Item], count: int) -> tuple[list[Item], list[Item]]:
    """The last ``count`` items of each class, but at most a third of them, apart from the others."""
    of_class: dict[int, list[Item]] = {}
    for item in items:
        of_class.setdefault(item.label, []).append(item)
    kept, aside = [], []
    for members in of_class.values():
        cut = len(members) - min(count, len(members) // 3)
        kept += members[:cut]
        aside += members[cut:]
    return kept, aside


def check_reads(encoder: Encoder, dataset: Dataset, reads: str) -> None:
    """Refuse unless data, classifier and backbone are all for images or all for texts.

    Args:
        reads: what the classifier is for.
    """
    read = "images" if "vision" in encoder.backbone.branches else "texts"
    held = "texts" if dataset.texts else "images"
    if held != read:
        remedy = "a language model, such as toy-text" if dataset.texts else "a model with a vision branch"
        name = encoder.backbone.name
        raise UserError(f"data set '{dataset.name}' holds {held} and '{name}' reads {read}: give {remedy}")
    if held != reads:
        raise UserError(f"this classifier is for {reads}: use the one for {held}")


def make_splits(
    method: Method, dataset: Dataset, augment: Augment, views: int, validate: bool, show: bool
) -> dict[str, ImageSet]:
    """Training images as the loop takes them and, where there is a use for them, validation images.

    Args:
        validate: whether the accuracy on validation images is wanted.
    """
    encoder, frozen = method.encoder, not method.has_visual_prompts
    if show and views and (why := why_no_views(method, augment)):
        say(f"views {views} change nothing: {why}")
    if not method.trains:  # nothing will be drawn
        labels = torch.tensor([item.label for item in dataset.train])
        return {"train": ImageSet(plain_pixels(encoder, [item.image for item in dataset.train]), labels)}
    how = augment, views, frozen, show, method.smallest_crop
    splits = {"train": make_image_set(encoder, list(dataset.train), *how)}
    if (method.needs_validation or validate) and dataset.val:  # without, the training says so
        splits["val"] = make_image_set(encoder, list(dataset.val), "none", frozen=frozen, show=show)
    made = f"{dataset.name}, {augment}, {views} numbered views"
    made += ", frozen in bfloat16" if encoder.frozen_dtype else ""
    faster = what_is_faster(method, augment, views)
    return {name: replace(split, made=made, faster=faster) for name, split in splits.items()}


def choose_frozen_precision(
    method: Method, precision: str, images: Sequence[ImageSource], show: bool = False
) -> None:
    """Have what is frozen computed in bfloat16: if asked for, or by ``auto`` if the model stands it.

    What it changes is measured on the first images, and said.
    """
    encoder = method.encoder
    if precision == "bf16":
        encoder.frozen_dtype = torch.bfloat16
    if precision != "auto" or method.has_visual_prompts or not images or not worth_trying(encoder):
        return
    if not encoder.backbone.names_classes:  # no predictions yet that could change
        return
    classes = template_features(encoder, method.classnames, method.templates)  # (K, E)
    features = []
    for encoder.frozen_dtype in (None, torch.bfloat16):
        features.append(image_features(encoder, images[:FIRST]))  # (B, E)
    cosine, others = change(features[0], features[1], classes)
    stands = cosine >= STANDS
    encoder.frozen_dtype = torch.bfloat16 if stands else None
    if show:
        say(
            f"{'bfloat16' if stands else 'float32'} for what is frozen: in bfloat16 the features of "
            f"{len(features[0])} images have a cosine of {cosine:.5f} or more with those in float32, and "
            f"{others} zero-shot predictions are others"
        )
