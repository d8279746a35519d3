"""A backbone's files on the hub: what is needed of a repository, once, and then from the hub's cache."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from tqdm import tqdm

from vlprompt.engine.backbones.weights import weight_files
from vlprompt.errors import UserError
from vlprompt.progress import say

COMPANIONS = (".json", ".txt", ".model")
"""Configuration, tokenizer and image processor."""
COMMIT = re.compile("[0-9a-f]{40}")


class _Bytes(tqdm):
    """Bars of the hub's library on a terminal: bytes as they come, not the number of files."""

    def __init__(self, *args: Any, **settings: Any):
        shown = settings.get("unit") == "B" and sys.stderr.isatty()
        super().__init__(*args, **settings | {"disable": not shown, "leave": False})


def fetch(repository: str, revision: str | None = None) -> Path:
    """Folder of a hub model's files in the hub's cache; weights as they are, never converted over there.

    A commit that is in the cache needs no network; a branch does only where it may have moved.

    Args:
        revision: commit, branch or tag; ``None`` is the main branch.

    Raises:
        UserError: it is not in the cache, and the hub does not have it or cannot be reached.
    """
    name = f"{repository}@{revision}" if revision else repository
    try:
        kept = _cached(repository, revision)
        if kept and revision and COMMIT.fullmatch(revision):
            return kept
        try:
            info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        except (
            Exception
        ):  # gone, forbidden, unreachable or offline: each version of the client has its errors
            if kept:
                return kept
            raise
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if "/" not in file.rfilename}
        wanted = [*weight_files(sizes), *(file for file in sizes if file.endswith(COMPANIONS))]
        missing = [f for f in wanted if not _is_cached(repository, f, info.sha)]
        if missing:
            say(f"{name}: {sum(sizes[file] for file in missing) / 1e6:.0f} MB from the hub")
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=wanted, tqdm_class=_Bytes)
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"model '{name}' is not in the cache and the hub cannot be reached or does not have it: "
            "give a local folder, or use the built-in 'toy'"
        ) from error


def _cached(repository: str, revision: str | None) -> Path | None:
    """Folder of a revision in the hub's cache, where its weights are all there."""
    config = try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if weight_files([path.name for path in folder.iterdir()]) else None


def _is_cached(repository: str, file: str, revision: str | None) -> bool:
    return isinstance(try_to_load_from_cache(repository, file, revision=revision), str)
