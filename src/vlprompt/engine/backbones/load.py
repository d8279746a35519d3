"""A frozen backbone by name: a built-in one, a folder of ``transformers``, or a hub id."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.utils import logging

from vlprompt.engine.backbones.hub import fetch
from vlprompt.engine.backbones.protocol import Backbone
from vlprompt.engine.backbones.weights import read_weights
from vlprompt.errors import UserError
from vlprompt.progress import no_library_bars
from vlprompt.toy.model import ALONE, BUILT_IN

FAMILIES: dict[str, type[Backbone] | str] = {
    "bert": "bert.BertBackbone",
    "clip": "clip.CLIPBackbone",
    "clip_vision_model": "clip.CLIPVisionBackbone",
    "dinov2": "dinov2.Dinov2Backbone",
    "dinov3_vit": "dinov3_vit.Dinov3ViTBackbone",
    "gpt2": "gpt2.GPT2Backbone",
    "llama": "llama.LlamaBackbone",
    "metaclip_2": "metaclip_2.MetaClip2Backbone",
    "qwen2": "llama.Qwen2Backbone",
    "siglip": "siglip.SiglipBackbone",
    "vit": "vit.ViTBackbone",
}
"""The family of each ``model_type`` that a config.json may name: a class, or where it is to be imported."""

SMALLEST_VOCABULARY = 256
"""A byte-level tokenizer has a token for every byte."""
_SHARED: dict[str, Backbone] = {}
_LOADING = Lock()


def load_backbone(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Backbone:
    """Load a frozen backbone by name.

    Args:
        name: ``toy`` or ``toy-deep``, with ``-vision`` behind it their image branch alone; the language
            model ``toy-text``; a local folder of ``transformers``; or a hub id, with ``@`` and a
            commit, branch or tag behind it where it shall not be the main branch.

    Raises:
        UserError: nothing there, no network, weights that cannot be used, or not a known family.
    """
    folder, commit = _folder(name)
    return _load(name, folder, commit, device, dtype)


def shared_backbone(name: str, device: torch.device) -> Backbone:
    """:func:`load_backbone`, but the one of before while it is asked for again and its files are the same.

    Nobody may change it.
    """
    folder, commit = _folder(name)
    files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.is_file())
    key = repr((name, folder, commit, device, files))
    with _LOADING:
        if key not in _SHARED:
            _SHARED.clear()  # before the next is loaded: two may be too many for the memory
            _SHARED[key] = _load(name, folder, commit, device, torch.float32)
        return _SHARED[key]


def _load(
    name: str, folder: Path, commit: str | None, device: str | torch.device, dtype: torch.dtype
) -> Backbone:
    config = _config(name, folder)
    tensors, digest = read_weights(folder, name)
    family = _family(config.model_type)
    with _refusing(name), no_library_bars():
        model, report = family.Model.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below
            **family.options,
        )
        tokenizer = processor = None
        if "text" in family.branches:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if "vision" in family.branches:
            processor = AutoImageProcessor.from_pretrained(  # this backend needs no torchvision
                folder, backend="pil", trust_remote_code=False
            )
    _check_weights(name, report)
    if tokenizer is not None and len(tokenizer) < SMALLEST_VOCABULARY:  # made of a folder without one
        raise UserError(f"model '{name}' has no tokenizer: copy its tokenizer files into the folder")
    return family(model.to(device), tokenizer, processor, name, commit, digest)


def _folder(name: str) -> tuple[Path, str | None]:
    """The folder that a name stands for, and the commit where it is the hub's."""
    if name in BUILT_IN:
        return BUILT_IN[name], None
    local = Path(name).expanduser()
    if local.is_dir():
        return local, None
    repository, _, revision = str(name).partition("@")
    if local.exists() or repository.count("/") != 1:
        raise UserError(
            f"model '{name}' is neither a folder nor a hub id such as openai/clip-vit-base-patch16: "
            "give one of these, or the built-in 'toy'"
        )
    folder = fetch(repository, revision or None)
    return folder, folder.name


def _config(name: str, folder: Path) -> Any:
    """What config.json says, of a known family."""
    if not (folder / "config.json").is_file():
        raise UserError(f"model folder '{name}' has no config.json: give a folder saved by transformers")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model folder '{name}': config.json cannot be read ({reason})") from error
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(
            f"model '{name}' is of type '{config.model_type}', of which no layer is known that takes "
            f"prompts: give one of type {known}"
        )
    return config.vision_config if name in BUILT_IN and name.endswith(ALONE) else config


def _family(model_type: str) -> type[Backbone]:
    family = FAMILIES[model_type]
    if isinstance(family, str):  # imported now: a family brings its model's module with it
        module, _, name = family.partition(".")
        return getattr(importlib.import_module(f"vlprompt.engine.backbones.{module}"), name)
    return family


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What ``transformers`` cannot read, in one line; of tensors that it does not use it says nothing."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model '{name}' cannot be loaded: {reason} "
            "(it needs config.json, weights, and the files of its tokenizer and image processor)"
        ) from error
    finally:
        logging.set_verbosity(before)


def _check_weights(name: str, report: dict[str, Any]) -> None:
    """Refuse a model of which ``transformers`` made up a part."""
    unfit = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    if absent := sorted({*report["missing_keys"], *unfit}):
        raise UserError(
            f"model '{name}': its weights lack '{absent[0]}' in the shape that config.json asks for "
            f"({len(absent)} in all): copy the whole folder again"
        )


def former_digest(name: str) -> str:
    """Digest of a folder's weights files and configuration, by which 0.1.0 knew it."""
    folder, _ = _folder(name)
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    return digest.hexdigest()[:16]
