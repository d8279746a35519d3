"""The weights in a backbone's folder: which files hold them, how they are read, converted and told apart."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import filter as matching
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlprompt.errors import UserError
from vlprompt.files import cache_home, whole_files, write_text
from vlprompt.progress import say, track

DERIVED = "position_ids"
"""Tensors of older files that later ones leave out: they are only counted up."""
WORTH = 1 << 26
"""Bytes of weights whose digest is kept, so that it is not computed at every start."""
RESTRICTED = (2, 6)
"""The first torch whose restricted loader is safe (CVE-2025-32434)."""


def weight_files(names: Collection[str]) -> list[str]:
    """The files that hold the weights: safetensors first; none where a shard is missing."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if f"{stem}.{suffix}" in names:
            return [f"{stem}.{suffix}"]
        shards = sorted(matching(names, f"{stem}-*-of-*.{suffix}"))
        if shards and len(shards) == int(shards[0].removesuffix(f".{suffix}").rpartition("-")[2]):
            return shards
    return []


def read_weights(folder: Path, name: str) -> tuple[dict[str, Tensor], str]:
    """Tensors of a folder, and the digest that is the backbone's identity.

    Args:
        name: what the user called the model, for messages.

    Raises:
        UserError: no weights, damaged ones, or a pickle that holds anything but tensors.
    """
    files = [folder / file for file in weight_files([path.name for path in folder.iterdir()])]
    if not files:
        raise UserError(
            f"model '{name}' has no weights: it needs model.safetensors or pytorch_model.bin, or all shards"
        )
    if files[0].suffix == ".bin":
        return _converted(files, name)
    tensors = _read_safetensors(files, name)
    return tensors, _known_digest(files, tensors)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of names, types, shapes and bytes, whatever files they lie in."""

    def line(key: str) -> str:
        tensor = tensors[key]
        content = hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        return f"{key} {tensor.dtype} {list(tensor.shape)} {content}\n"

    with ThreadPoolExecutor() as workers:  # hashing does not hold Python's lock
        lines = list(workers.map(line, sorted(key for key in tensors if not key.endswith(DERIVED))))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _known_digest(files: Sequence[Path], tensors: Mapping[str, Tensor]) -> str:
    """The digest, kept beside the time and size of large files."""
    home = cache_home()
    if home is None or sum(file.stat().st_size for file in files) < WORTH:
        return digest(tensors)
    kept = home / "digests" / _key(files)
    with suppress(OSError):
        if re.fullmatch("[0-9a-f]{16}", text := kept.read_text()):
            return text
    result = digest(tensors)
    with suppress(UserError):  # it is computed again the next time
        write_text(kept, result)
    return result


def _key(files: Sequence[Path]) -> str:
    """What names these files as they are now."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode(errors="surrogateescape")).hexdigest()


def _read_safetensors(files: Sequence[Path], name: str) -> dict[str, Tensor]:
    try:
        return {key: tensor for file in files for key, tensor in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"model '{name}': its weights file is damaged ({error}): copy it again") from error


def _converted(files: Sequence[Path], name: str) -> tuple[dict[str, Tensor], str]:
    """Tensors of pickled files, converted once to safetensors in the cache and from then on read there."""
    home = cache_home()
    kept = home / "weights" / f"{_key(files)}.safetensors" if home else None
    if kept is not None and kept.is_file():
        with suppress(UserError, SafetensorError, OSError):  # a damaged one is made anew
            tensors = _read_safetensors([kept], name)
            with safe_open(kept, "pt") as opened:
                written = (opened.metadata() or {}).get("digest")
            if written == _known_digest([kept], tensors):
                return tensors, written
    size = sum(file.stat().st_size for file in files)
    if kept is not None:
        say(
            f"{name}: {files[0].name} ({size / 1e6:.0f} MB) is converted once to safetensors in {kept.parent}"
        )
    tensors = {key: value for file in files for key, value in _read_pickle(file, name).items()}
    tensors = {  # copies, since pickled tensors may share memory
        key: tensors[key].clone().contiguous() for key in track(tensors, "convert weights", len(tensors))
    }
    made = digest(tensors)
    if kept is not None:
        with suppress(UserError), whole_files(kept) as room:  # without room for it the pickle serves
            save_file(tensors, room / kept.name, {"format": "pt", "digest": made})
    return tensors, made


def _read_pickle(file: Path, name: str) -> dict[str, Tensor]:
    """Tensors of a pickle, by torch's restricted loader.

    Raises:
        UserError: it holds anything else, is damaged, or torch is too old to read it safely.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < RESTRICTED:
        raise UserError(
            f"model '{name}' comes as {file.name}, which torch {torch.__version__} cannot read safely: "
            "update torch to 2.6 or newer"
        )
    try:
        content = torch.load(file, "cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global:?) ([\w.]+)", str(error))
        if found is None:
            raise UserError(f"model '{name}': {file.name} is damaged: copy it again") from error
        raise _no_tensor(name, file, found[1]) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"model '{name}': {file.name} is damaged: copy it again") from error
    if not isinstance(content, dict):
        raise _no_tensor(name, file, type(content).__name__)
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise _no_tensor(name, file, str(key))
    return dict(content)


def _no_tensor(name: str, file: Path, what: str) -> UserError:
    return UserError(
        f"model '{name}': {file.name} holds '{what}', which is no tensor, and is not read: "
        "get its weights as safetensors"
    )
