"""What an image is, whatever it is called and wherever it lies: a digest of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlprompt.data.images import open_image
from vlprompt.dataset import Encoded, ImageSource
from vlprompt.reading import check_regular


def image_digest(source: ImageSource) -> str:
    """Digest of a file's bytes, or of the pixels of a picture in memory; "" of a file that cannot be read.

    Raises:
        UserError: a picture in memory that is no image.
    """
    if isinstance(source, Encoded):
        source = source.image
    if isinstance(source, str | Path):
        try:
            check_regular(Path(source))
            with Path(source).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # whoever decodes it says why
            return ""
    image = open_image(source)
    return hashlib.sha256(f"pixels {image.size}".encode() + image.tobytes()).hexdigest()
