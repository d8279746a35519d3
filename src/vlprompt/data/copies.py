"""Images that a data set has more than once, found by what is in their files, and said: they flatter or spoil
whatever is measured."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vlprompt.data.images import in_parallel
from vlprompt.dataset import Dataset, ImageSource, Item, Text
from vlprompt.reading import check_regular

log = logging.getLogger("vlprompt")


def warn_of_copies(dataset: Dataset) -> None:
    """Say how many images are in two splits, in two classes, or there again; only files are looked at."""
    splits = (dataset.train, dataset.val, dataset.test)
    items = [(item, split) for split, members in enumerate(splits) for item in members]
    known = _contents([Path(item.image) for item, _ in items if isinstance(item.image, str | Path)])
    first: dict[str, tuple[Item, int]] = {}
    leaked, contradictory, again = list[Item](), list[Item](), list[Item]()
    for item, split in items:
        content = known.get(str(item.image))
        if content is None:
            continue
        if content not in first:
            first[content] = item, split
            continue
        before, its_split = first[content]
        kind = leaked if split != its_split else again if item.label == before.label else contradictory
        kind.append(item)
    for found, what in (
        (leaked, "are in an earlier split, too: remove them, what is measured on them says little"),
        (contradictory, "are in another class, too: remove the wrong one"),
        (again, "are there more than once: remove the copies, one of which may be tested on"),
    ):
        if found:
            log.warning("%d images of '%s', such as '%s', %s", len(found), dataset.name, found[0].image, what)


def _contents(paths: Sequence[Path]) -> dict[str, str]:
    """What may be there twice: path -> what stands for its content. Only files of equal size are read."""
    listed = Counter(map(str, paths))
    sizes = {name: Path(name).stat().st_size for name in listed}
    equal = Counter(sizes.values())
    alike = [name for name, size in sizes.items() if equal[size] > 1]
    digests = dict(zip(alike, in_parallel(digest, alike, "compare images"), strict=True))
    return {name: name for name, count in listed.items() if count > 1} | digests


def digest(image: ImageSource) -> str:
    """16 hexadecimal digits for what an image's file, or the image (or text) itself, holds.

    Empty for a picture that is drawn when it is opened, and for what cannot be read.
    """
    hashed = hashlib.blake2b(digest_size=8)
    try:
        if isinstance(image, Text):
            hashed.update(image.encode(errors="surrogatepass"))
            return hashed.hexdigest()
        if isinstance(image, str | Path):
            check_regular(Path(image))
            with open(image, "rb") as file:
                return hashlib.file_digest(file, lambda: hashed).hexdigest()
        if isinstance(image, Image.Image | np.ndarray):
            pixels = np.ascontiguousarray(image)
            hashed.update(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes())
            return hashed.hexdigest()
    except (OSError, ValueError):
        pass
    return ""
