"""The classifier of texts, on a frozen language model; all else is as for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vlprompt.dataset import Dataset, Text
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.insight.explain import Explanation
from vlprompt.methods.templates import DEFAULT_TEMPLATE


class TextPromptClassifier(PromptClassifier):
    """Prompt learning for text classification, as an estimator of scikit-learn.

    Keys and values are learned in every layer of a frozen language model (for a decoder this is prefix
    tuning), which reads a text at its last token (decoders) or by the mean of all (encoders). Classes are a
    learned head. Texts are strings: a list, a tuple or an array of them.

    Args:
        method: ``dpl`` or ``linear``.
        model: ``toy-text``, a local folder or a hub id of a language model.
        settings, preset, seed, device, precision, clip_grad, verbose, class_names: as for
            :class:`PromptClassifier`.

    Attributes are those of :class:`PromptClassifier`.
    """

    reads = "texts"
    augment, views, templates = "none", 0, (DEFAULT_TEMPLATE,)

    def __init__(
        self,
        method: str = "dpl",
        model: str = "toy-text",
        settings: dict[str, Any] | None = None,
        preset: str = "",
        seed: int = 1,
        device: str = "auto",
        precision: Literal["auto", "no", "bf16", "fp16"] = "auto",
        clip_grad: float | None = None,
        verbose: bool = False,
        class_names: Mapping[Any, str] | Sequence[str] | None = None,
    ):
        self.method = method
        self.model = model
        self.settings = settings
        self.preset = preset
        self.seed = seed
        self.device = device
        self.precision = precision
        self.clip_grad = clip_grad
        self.verbose = verbose
        self.class_names = class_names

    def _inputs(self, X: Any) -> list[Any]:  # noqa: N803
        """N texts, however they come.

        Raises:
            UserError: one text instead of a list, or something that is no text.
        """
        if isinstance(X, str):
            raise UserError(f"{X[:40]!r} is one text, not a list: give [text]")
        texts = X.tolist() if isinstance(X, np.ndarray) else list(X)
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"{type(text).__name__} is no text: give a list of texts")
        return [Text(text) for text in texts]

    def explain(self, image: Any, class_name: str | None = None) -> Explanation:
        """Texts are not explained.

        Raises:
            UserError: always.
        """
        raise UserError("an explanation shows parts of an image, and this classifier reads texts")


def classifier_for(dataset: Dataset) -> type[PromptClassifier]:
    """The classifier of what a data set holds."""
    return TextPromptClassifier if dataset.texts else PromptClassifier
