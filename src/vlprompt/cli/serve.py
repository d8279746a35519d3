"""The command ``vlprompt serve``: a tuned classifier behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional

from vlprompt.cli.loading import AS_TRAINED, Loading
from vlprompt.server.listen import need_extra, open_port, run
from vlprompt.typed import Between, checked


def serve(
    classifier: Positional[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_batch: int = 32,
    wait_ms: float = 5,
    max_body_mb: float = 32,
    max_images: int = 32,
    max_megapixels: float = 50,
    loading: OmitArgPrefixes[Loading] = AS_TRAINED,
) -> None:
    """Serve a classifier over HTTP: POST /predict, GET /health, GET /classes, and /docs to try it.

    Images of requests that arrive together go through the model together. There is no login: whoever
    reaches the port may use it, so open it to others only behind a proxy of your own.

    Args:
        classifier: folder of a tuned classifier.
        host: address to listen at; 0.0.0.0 is every network of this machine.
        port: port to listen at; 0 takes any free one.
        max_batch: most images that go through the model together.
        wait_ms: milliseconds that an image waits for others to go with.
        max_body_mb: largest request, in megabytes.
        max_images: most images in one request.
        max_megapixels: largest image; checked before it is decoded.
    """
    need_extra("serve", "fastapi", "uvicorn", "python_multipart", "fastapi_offline")
    for name, value, bounds in (
        ("max-batch", max_batch, Between(1, 4096)),
        ("max-images", max_images, Between(1, 4096)),
        ("max-body-mb", max_body_mb, Between(0, 4096, "low")),
        ("max-megapixels", max_megapixels, Between(0, 178, "low")),
        ("wait-ms", wait_ms, Between(0, 10_000)),
    ):
        checked(value, Annotated[float, bounds], f"--{name}")
    opened = open_port(host, port)

    from vlprompt.server.http import make_api
    from vlprompt.server.uploads import Limits

    limits = Limits(max_batch, wait_ms / 1e3, int(max_body_mb * 1e6), max_images, int(max_megapixels * 1e6))
    api = make_api(loading.load(classifier), limits)
    run(api, opened, f"serving {classifier}", grace=4, stop=api.state.stop)
