"""A tuned classifier as a folder: prompts.safetensors, config.json, history.json, README.md."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NotRequired, TypedDict

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vlprompt import files
from vlprompt.errors import UserError
from vlprompt.reading import parse_json, read_text
from vlprompt.typed import Positive, checked

FORMAT = 1
PROMPTS, CONFIG, HISTORY, CARD = "prompts.safetensors", "config.json", "history.json", "README.md"
CHECKPOINTS = "checkpoints"
MOST_CLASSES = 100_000


class BackboneConfig(TypedDict):
    """Which backbone the prompts belong to."""

    name: str
    revision: str | None
    digest: NotRequired[str | None]


class Options(TypedDict):
    """How a classifier was trained."""

    seed: int
    device: str
    precision: Literal["auto", "no", "bf16", "fp16"]
    clip_grad: Positive | None
    augment: Literal["auto", "crop+flip", "crop", "gentle", "none"]
    views: int


class Config(TypedDict):
    """What config.json holds; the settings' types are those of the method."""

    format: int
    library: str
    method: str
    settings: dict[str, Any]
    preset: str
    reads: NotRequired[Literal["images", "texts"]]
    backbone: BackboneConfig
    frozen_precision: NotRequired[Literal["no", "bf16"]]
    classnames: list[str]
    labels: NotRequired[list[str | bool | int | float]]
    templates: list[str]
    options: Options
    measured: dict[str, dict[str, float]]
    trained_on: NotRequired[list[str]]


def first_process() -> bool:
    """Whether this is the process that writes, of those that ``torchrun`` started or alone.

    Raises:
        UserError: the environment says otherwise of the processes than in numbers.
    """
    rank, count = (_number_in_environment(name, usual) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1)))
    return rank == 0 or count == 1


def _number_in_environment(name: str, usual: int) -> int:
    text = os.environ.get(name, str(usual))
    if not text.isdecimal():
        raise UserError(f"{name} '{text}' in the environment is no number: unset it, or start by torchrun")
    return int(text)


@contextmanager
def folder_beside(target: Path, what: str = "classifier", force: bool = False) -> Iterator[Path]:
    """A folder ``target.part`` to write into; when all went well it takes the place of ``target``.

    Its checkpoints stay there when the writing is cut off, so that a later call can go on from them.
    Of several processes that train one model the first writes; the others see its checkpoints.

    Raises:
        UserError: the place cannot be written, or ``target`` holds what this program did not make.
    """
    if first_process():
        with files.whole_folder(target, what, f"{CHECKPOINTS}/*", force) as beside:
            yield beside
    else:
        beside = files.growing(target)
        with TemporaryDirectory() as scratch:
            (Path(scratch) / CHECKPOINTS).symlink_to(beside / CHECKPOINTS)
            yield Path(scratch)


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def write(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], history: list[Any], card: str
) -> None:
    """Write a classifier's files into an existing folder."""
    content = save({k: v.detach().contiguous().cpu() for k, v in tensors.items()})
    (folder / PROMPTS).write_bytes(content)
    written = json.dumps({"format": FORMAT} | config, indent=1, ensure_ascii=False)
    (folder / CONFIG).write_text(written + "\n", encoding="utf-8")
    (folder / HISTORY).write_text(json.dumps(history) + "\n")
    (folder / CARD).write_text(card, encoding="utf-8")


def reads(folder: Path) -> str:
    """What a classifier reads, ``images`` or ``texts``; empty for what :func:`read` will refuse."""
    with suppress(OSError, ValueError, UserError):
        return str(parse_json(read_text(folder / CONFIG), dict[str, Any], CONFIG).get("reads", "images"))
    return ""


def read(folder: Path) -> tuple[dict[str, Tensor], Config, list[dict[str, Any]]]:
    """Tensors, configuration and history of a classifier.

    Raises:
        UserError: no such folder, a file that is missing, damaged, or of a newer format.
    """
    if not folder.is_dir():
        raise UserError(f"classifier '{folder}' does not exist: give a folder made by 'vlprompt fit --out'")
    for name in (CONFIG, PROMPTS):
        if not (folder / name).is_file():
            raise UserError(f"classifier '{folder}' has no {name}: copy the whole folder, or fit again")
    try:
        content = parse_json(read_text(folder / CONFIG), dict[str, Any], CONFIG)
        version = checked(content.get("format"), int, "format")
        if version > FORMAT:
            raise UserError(
                f"classifier '{folder}' is of format {version}, this vlprompt reads {FORMAT}: update it"
            )
        config = checked(content, Config, CONFIG)
        history = _history(folder / HISTORY)
        _check_names(config)
        tensors = load_file(folder / PROMPTS)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"'{name}' holds values that are no numbers")
    except UserError as error:
        if "update it" in str(error):
            raise
        raise _damaged(folder, str(error)) from error
    except PermissionError as error:
        raise UserError(f"'{error.filename}' cannot be read: change its permissions") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(folder, str(error) or repr(error)) from error
    return tensors, config, history


def _damaged(folder: Path, reason: str) -> UserError:
    remedy = "copy the whole folder again, or fit again"
    return UserError(f"classifier '{folder}' is damaged ({reason}): {remedy}")


def _history(file: Path) -> list[dict[str, Any]]:
    return parse_json(read_text(file), list[dict[str, Any]], HISTORY) if file.exists() else []


def _check_names(config: Config) -> None:
    """A class has one name and one label each, and there are two or more."""
    names = config["classnames"]
    if not 2 <= len(names) <= MOST_CLASSES or len(config.get("labels", names)) != len(names):
        raise ValueError(f"{len(names)} classes, {len(config.get('labels', names))} labels")
    if not all(name.strip() for name in names):
        raise ValueError("a class without a name")
    if not config["templates"] or any("{}" not in template for template in config["templates"]):
        raise ValueError("templates without a place for the class name")
