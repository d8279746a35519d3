"""A frozen backbone by name: a built-in one, a folder of ``transformers``, or a hub id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from vlprompt.engine.backbones.clip import CLIPBackbone
from vlprompt.engine.backbones.protocol import Backbone
from vlprompt.errors import UserError

FAMILIES: dict[str, type[Backbone]] = {"clip": CLIPBackbone}
"""The family of each ``model_type`` that a config.json may name."""

TOY = Path(__file__).parents[2] / "toy"
BUILT_IN = {"toy": TOY / "backbone", "toy-deep": TOY / "backbone-deep"}
"""Folder of each built-in backbone."""
SMALLEST_VOCABULARY = 256
"""A byte-level tokenizer has a token for every byte."""


def load_backbone(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Backbone:
    """Load a frozen backbone by name.

    Args:
        name: ``toy`` or ``toy-deep``, a local folder in the format of ``transformers``, or a hub id.

    Raises:
        UserError: nothing there, no network, no safetensors weights, or not a known family.
    """
    source = _source(name)
    family = _family(name, source)
    with _refusing(name):
        model, report = AutoModel.from_pretrained(
            source,
            use_safetensors=True,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(
            source,
            backend="pil",  # it needs no torchvision
            trust_remote_code=False,
        )
    _check_weights(name, report)
    if len(tokenizer) < SMALLEST_VOCABULARY:  # what transformers makes of a folder without one
        raise UserError(f"model '{name}' has no tokenizer: copy its tokenizer files into the folder")
    return family(model.to(device), tokenizer, processor, name, _revision(source))


def _source(name: str) -> str:
    """The folder or the hub id that a name stands for."""
    if name in BUILT_IN:
        return str(BUILT_IN[name])
    local = Path(name).expanduser()
    if local.is_dir():
        return str(local)
    if local.exists() or str(name).count("/") != 1:
        raise UserError(
            f"model '{name}' is neither a folder nor a hub id such as openai/clip-vit-base-patch16: "
            "give one of these, or the built-in 'toy'"
        )
    return name


def _family(name: str, source: str) -> type[Backbone]:
    """The family that config.json names."""
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"model folder '{name}' has no config.json: give a folder saved by transformers")
    try:
        kind = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    except (OSError, ValueError) as error:
        if folder.is_dir():
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model folder '{name}': config.json cannot be read ({reason})") from error
        raise UserError(
            f"model '{name}' is not in the cache and the hub cannot be reached or does not have it: "
            "give a local folder, or use the built-in 'toy'"
        ) from error
    if kind not in FAMILIES:
        known = " or ".join(f"'{family}'" for family in FAMILIES)
        raise UserError(f"model '{name}' is of type '{kind}': give a dual encoder of type {known}")
    return FAMILIES[kind]


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What ``transformers`` cannot read, in one line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model '{name}' cannot be loaded: {reason} "
            "(it needs config.json, model.safetensors, tokenizer and preprocessor_config.json)"
        ) from error
    except Exception as error:  # safetensors raises its own type for a truncated file
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"model '{name}': its weights file is damaged ({error}): copy it again") from error


def _check_weights(name: str, report: dict[str, Any]) -> None:
    """Refuse a model of which ``transformers`` made up a part."""
    unfit = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    if absent := sorted({*report["missing_keys"], *unfit}):
        raise UserError(
            f"model '{name}': its weights lack '{absent[0]}' in the shape that config.json asks for "
            f"({len(absent)} in all): copy the whole folder again"
        )


def _revision(source: str) -> str | None:
    """Commit of a hub model; for a folder, the digest of its weights."""
    folder = Path(source)
    if not folder.is_dir():
        cached = try_to_load_from_cache(source, "config.json")
        return Path(cached).parent.name if isinstance(cached, str) else None
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    return digest.hexdigest()[:16]
