"""What an image or a data set is, whatever it is called and wherever it lies: a digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlprompt.data.images import in_parallel, open_image
from vlprompt.dataset import Dataset, ImageSource
from vlprompt.reading import check_regular


def image_digest(source: ImageSource) -> str:
    """Digest of a file's bytes, or of the pixels of a picture in memory; "" of a file that cannot be read.

    Raises:
        UserError: a picture in memory that is no image.
    """
    if isinstance(source, str | Path):
        try:
            check_regular(Path(source))
            with Path(source).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # whoever decodes it says why
            return ""
    image = open_image(source)
    return hashlib.sha256(f"pixels {image.size}".encode() + image.tobytes()).hexdigest()


def dataset_digest(dataset: Dataset) -> str:
    """16 hexadecimal digits of a data set's images, labels, class names, templates and splits."""
    digest = hashlib.sha256(repr((dataset.classnames, dataset.templates)).encode())
    for split in (dataset.train, dataset.val, dataset.test):
        images = in_parallel(image_digest, [item.image for item in split])
        labels = [item.label for item in split]
        digest.update(repr(list(zip(images, labels, strict=True))).encode())
    return digest.hexdigest()[:16]
