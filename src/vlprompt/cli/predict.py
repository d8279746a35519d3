"""The command ``vlprompt predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from vlprompt.cli.console import show_rows
from vlprompt.cli.loading import AS_TRAINED, Loading
from vlprompt.cli.start_up import no_collector
from vlprompt.errors import UserError


def predict(
    classifier: Positional[Path],
    images: Positional[tuple[str, ...]],
    *,
    top: int = 1,
    classes: tuple[str, ...] = (),
    format: Literal["table", "json", "csv"] = "table",
    loading: OmitArgPrefixes[Loading] = AS_TRAINED,
) -> None:
    """Predict the classes of images, or of texts.

    Args:
        classifier: folder of a tuned classifier.
        images: files, folders or patterns such as 'photos/*.jpg'; of a classifier of texts the texts.
        top: number of classes shown for each image.
        classes: other class names than those trained on.
        format: table, json or csv.
    """
    if not images:
        raise UserError("no images: name files, folders or patterns after the classifier's folder")
    if not all(name.strip() for name in classes):
        raise UserError("--classes has a name without letters: give a text for every class")
    with no_collector():  # not by PromptClassifier, whose scikit-learn takes a second to import
        from vlprompt.data import find_images
        from vlprompt.data.images import open_image, readable
        from vlprompt.estimator import artifact
        from vlprompt.estimator.loading import load
        from vlprompt.estimator.prediction import predict_logits

        texts = artifact.reads(classifier) == "texts"
        found: Sequence[Any] = images if texts else find_images(images)
        if len(found) == 1 and not texts:
            open_image(found[0])  # which says what is wrong
        paths = found if texts else readable(found)
        if not paths:
            raise UserError(f"none of the {len(found)} images can be read: see the warnings above")
        trained = load(classifier, loading.model, loading.device, loading.method).method
    if classes:
        trained.transfer(classes)
    probabilities = predict_logits(trained, paths, show=True).softmax(-1).numpy()  # (N, K)
    rows = [
        {
            "text" if texts else "image": str(path),
            "class": trained.classnames[k],
            "probability": round(float(p[k]), 6),
        }
        for path, p in zip(paths, probabilities, strict=True)
        for k in (-p).argsort(kind="stable")[: max(top, 1)]
    ]
    show_rows(rows, format)
    if len(paths) < len(found):
        raise SystemExit(1)
