"""The checkpoint of one stage: tensors of the method and of its optimisers, all else as JSON, in one file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from vlprompt.errors import UserError
from vlprompt.files import whole_file
from vlprompt.methods.base import Method, Objective
from vlprompt.training.imageset import ImageSet
from vlprompt.training.options import TrainOptions


def identity(method: Method, splits: Mapping[str, ImageSet], options: TrainOptions) -> str:
    """What a checkpoint must agree on to be gone on from."""
    what = {
        "method": type(method).__name__,
        "settings": dataclasses.asdict(method.settings),
        "backbone": method.encoder.backbone.digest,
        "classes": method.classnames,
        "templates": method.templates,
        "options": dataclasses.asdict(options) | {"device": ""},
        "images": {name: split.made for name, split in splits.items()},
        "labels": {name: crc32(split.labels.numpy().tobytes()) for name, split in splits.items()},
    }
    return json.dumps(what, sort_keys=True)


def save(
    file: Path,
    identity: str,
    method: Method,
    objectives: Sequence[Objective],
    scaler: Any,
    history: list[Any],
) -> None:
    """Write what a stage needs to go on; the file appears whole or not at all."""
    tensors = {f"method.{key}": value for key, value in method.state_dict().items()}
    for index, objective in enumerate(objectives):
        for parameter, state in objective.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{parameter}.{key}"] = torch.as_tensor(value)
    metadata = {
        "identity": identity,
        "history": json.dumps(history),
        "memory": json.dumps(method.encoder.memory),
        "scaler": json.dumps(scaler.state_dict()),
    }
    content = to_bytes({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, metadata)
    with whole_file(file) as beside:
        beside.write_bytes(content)


def load(
    file: Path, identity: str, method: Method, objectives: Sequence[Objective], scaler: Any
) -> list[Any]:
    """Set a stage to what was saved; its history.

    Raises:
        UserError: a damaged checkpoint, or one of other settings, classes or images.
    """
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint '{file}' is damaged ({error}): delete it to start anew") from error
    if metadata.get("identity") != identity:
        raise UserError(
            f"checkpoint '{file}' belongs to a run with other settings, classes or images: "
            "give another output folder, or delete it to start anew"
        )
    method.encoder.memory = json.loads(metadata.get("memory", "null"))  # the same chunks as before
    own = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    method.load_state_dict(own)
    for index, objective in enumerate(objectives):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{index}."):
                parameter, name = key.split(".", 3)[2:]
                state.setdefault(int(parameter), {})[name] = value
        groups = objective.optimizer.state_dict()["param_groups"]
        objective.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if saved := json.loads(metadata["scaler"]):
        scaler.load_state_dict(saved)
    return json.loads(metadata["history"])
