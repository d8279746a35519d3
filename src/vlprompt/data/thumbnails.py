"""Small pictures that stand inside a page, as data URIs."""

from __future__ import annotations

import io
from base64 import b64encode

from PIL import Image

from vlprompt.data.images import open_image
from vlprompt.dataset import ImageSource


def thumbnail(image: ImageSource, side: int = 112) -> str:
    """An image as a data URI, reduced to at most ``side`` pixels a side; never enlarged.

    Raises:
        UserError: it cannot be read as an image.
    """
    small = open_image(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "PNG" if max(small.size) <= 48 else "WEBP"  # of so few pixels each counts
    content = io.BytesIO()
    small.save(content, kind, quality=82)
    return f"data:image/{kind.lower()};base64,{b64encode(content.getvalue()).decode()}"
