"""The command ``vlprompt app``: a page on which to name classes, look at pictures and train."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tyro.conf import Positional

from vlprompt.server.listen import need_extra, open_port, run

TOY_CLASSES, CLASSES = ("red circle", "blue square", "green star"), ("cat", "dog", "bird")
"""Class names to begin with: of the built-in backbones, which know no others, and of any other."""


def app(
    classifier: Positional[Path | None] = None,
    *,
    model: str = "",
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    method: str = "",
) -> None:
    """Open a page in which to try a classifier and to train one on a few photos.

    It needs no network and sends nothing anywhere. There is no login: whoever reaches the port may use it.

    Args:
        classifier: folder of a tuned classifier to begin with.
        model: 'toy', 'toy-deep', a local folder or a hub id; by default the classifier's own, or 'toy'.
        host: address to listen at; 0.0.0.0 is every network of this machine.
        port: port to listen at; 0 takes any free one.
        device: auto, cpu, cuda, mps.
        method: file of the method, where it was one of your own.
    """
    need_extra("app", "gradio", "uvicorn")
    opened = open_port(host, port)

    from vlprompt.app.session import start_session
    from vlprompt.engine.backbones.load import BUILT_IN
    from vlprompt.estimator.classifier import PromptClassifier

    if classifier is None:
        like = PromptClassifier(model=model or "toy", device=device)
    else:
        like = PromptClassifier.load(classifier, model, device, method)
    session = start_session(TOY_CLASSES if like.model in BUILT_IN else CLASSES, like)
    with tempfile.TemporaryDirectory(prefix="vlprompt-app-") as folder:
        # Gradio reads these when it is imported; its files, and only they, can be fetched.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        from vlprompt.app.page import make_app

        run(make_app(session, Path(folder)), opened, "page", grace=1)
