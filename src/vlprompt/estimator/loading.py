"""From a classifier's folder to its trained method; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from vlprompt.engine.backbones.hub import COMMIT
from vlprompt.engine.backbones.load import former_digest, shared_backbone
from vlprompt.engine.backbones.protocol import Backbone
from vlprompt.engine.devices import pick_device
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.precision import has_bfloat16
from vlprompt.errors import UserError
from vlprompt.estimator import artifact
from vlprompt.estimator.artifact import BackboneConfig, Config
from vlprompt.methods import get_method
from vlprompt.methods.base import Method
from vlprompt.methods.registry import is_file

T = TypeVar("T")


class Loaded(NamedTuple):
    """A classifier's folder.

    Args:
        method: trained, ready to predict.
        name: of the method, or its file.
        model: where the backbone was found.
        config, history: see :mod:`vlprompt.estimator.artifact`.
    """

    method: Method
    name: str
    model: str
    config: Config
    history: list[dict[str, Any]]


def load(folder: Path, model: str = "", device: str = "auto", method: str = "") -> Loaded:
    """Read a classifier's folder; the same backbone is needed.

    Args:
        model: where the backbone is now, if it is not where it was.
        method: file of the method, where it was one of the user's own.

    Raises:
        UserError: damaged or missing files; the backbone is missing or is another.
    """
    tensors, config, history = artifact.read(folder)
    name, kind = saved_method(folder, config["method"], method)
    model = model or pinned(config["backbone"])
    encoder = Encoder(same_backbone(folder, config["backbone"], model, device))
    if config.get("frozen_precision") == "bf16" and has_bfloat16(encoder.backbone.device):
        encoder.frozen_dtype = torch.bfloat16
    return Loaded(trained_method(folder, kind, config, encoder, tensors), name, model, config, history)


def saved_method(folder: Path, saved: str, given: str) -> tuple[str, type[Method]]:
    """A classifier's method and its name; code is executed only where it was given, never as it was saved.

    Raises:
        UserError: no such method; it was made by a file and none was given.
    """
    name = method_name(folder, saved, given)
    return name, get_method(name, files=bool(given))


def method_name(folder: Path, saved: str, given: str) -> str:
    """The method of a classifier: its name, with the file that was given in the place of one of its own.

    Raises:
        UserError: it was made by a file and none was given.
    """
    parts = saved.split("+")
    if "+" not in given and sum(map(is_file, parts)) == bool(given):
        return "+".join(given if is_file(part) else part for part in parts)
    if given:
        return given
    raise UserError(
        f"classifier '{folder}' was made by a method of its own ({saved}): give its file as method"
    )


def pinned(made_with: BackboneConfig) -> str:
    """The name of the backbone that a classifier was made with; a hub id stands with its commit."""
    name, commit = made_with["name"], made_with["revision"] or ""
    return f"{name.partition('@')[0]}@{commit}" if COMMIT.fullmatch(commit) else name


def same_backbone(folder: Path, made_with: BackboneConfig, model: str, device: str) -> Backbone:
    """The backbone that a classifier was made with.

    Args:
        made_with: its name then, its commit on the hub and the digest of its weights. A classifier of
            0.1.0 has no digest: the commit, or a folder's former digest, stands as ``revision``.
        model: where it is now.

    Raises:
        UserError: it cannot be loaded, or it is another.
    """
    expected = made_with.get("digest") or made_with["revision"]
    try:
        backbone = shared_backbone(model, pick_device(device))
    except UserError as error:
        raise UserError(
            f"classifier '{folder}' needs the backbone '{made_with['name']}' (weights {expected}): {error}"
        ) from error
    found = backbone.digest if made_with.get("digest") else backbone.revision or former_digest(model)
    if expected and found != expected:
        raise UserError(
            f"classifier '{folder}' was made with weights {expected} of '{made_with['name']}', and "
            f"'{model}' has {found}: give the same backbone"
        )
    return backbone


def trained_method(
    folder: Path, kind: type[Method], config: Config, encoder: Encoder, tensors: dict[str, Tensor]
) -> Method:
    """The method of a classifier with what it learned, ready to predict.

    Args:
        config, tensors: what :func:`vlprompt.estimator.artifact.read` gives.

    Raises:
        UserError: the method has other settings or parameters.
    """
    saved = kind.unsaved | {k: v for k, v in config["settings"].items() if k not in kind.retired}
    if unknown := saved.keys() - {f.name for f in fields(kind.Settings)}:
        raise UserError(
            f"classifier '{folder}' has the setting '{min(unknown)}', which method '{kind.name}' does not "
            "know: it was made by another version of vlprompt or of the method"
        )
    settings = _within(folder, lambda: kind.Settings(**saved))
    needed = len(config["classnames"]) * getattr(settings, "n_ctx", 0)
    there = sum(len(tensor) for tensor in tensors.values() if tensor.ndim)
    if getattr(settings, "class_specific", False) and needed > there:  # before so many are made
        raise UserError(f"classifier '{folder}' has no context for each of its classes: copy it again")
    names, templates = config["classnames"], tuple(config["templates"])
    method = _within(folder, lambda: kind(encoder, names, settings, templates).eval())
    _within(folder, lambda: method.load_parameters(tensors))
    return method


def _within(folder: Path, make: Callable[[], T]) -> T:
    """What is made of a classifier's files; a refusal names the folder."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"classifier '{folder}' is damaged: {error}") from error
