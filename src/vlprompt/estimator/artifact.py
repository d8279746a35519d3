"""A tuned classifier as a folder: prompts.safetensors, config.json, history.json, README.md."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vlprompt import files
from vlprompt.errors import UserError

FORMAT = 1
PROMPTS, CONFIG, HISTORY, CARD = "prompts.safetensors", "config.json", "history.json", "README.md"
CHECKPOINTS = "checkpoints"
NEEDED = {"method", "settings", "preset", "backbone", "classnames", "templates", "options", "measured"}


def first_process() -> bool:
    """Whether this is the process that writes, of those that ``torchrun`` started or alone."""
    return os.environ.get("RANK", "0") == "0"


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


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[Any]]:
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
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        history = json.loads((folder / HISTORY).read_text()) if (folder / HISTORY).is_file() else []
        tensors = load_file(folder / PROMPTS)
        version = int(config["format"])
        if missing := NEEDED - config.keys() if version <= FORMAT else ():
            raise ValueError(f"{CONFIG} lacks {min(missing)}")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"classifier '{folder}' is damaged ({error!r}): copy the whole folder again, or fit again"
        ) from error
    if version > FORMAT:
        raise UserError(
            f"classifier '{folder}' is of format {version}, this vlprompt reads {FORMAT}: update it"
        )
    return tensors, config, history
