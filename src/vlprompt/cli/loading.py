"""The flags with which a classifier is loaded, the same in every command that takes one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlprompt.cli.start_up import no_collector

if TYPE_CHECKING:
    from vlprompt.estimator.classifier import PromptClassifier


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Where the parts of the classifier are."""

    model: str = ""
    """where the backbone is, if not where it was in training"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    method: str = ""
    """file of the method, where it was one of your own"""

    def load(self, folder: Path, texts: bool = False) -> PromptClassifier:
        """The classifier of a folder.

        Args:
            texts: whether it shall be one of texts.

        Raises:
            UserError: see :meth:`vlprompt.PromptClassifier.load`.
        """
        with no_collector():
            from vlprompt import PromptClassifier, TextPromptClassifier

            kind = TextPromptClassifier if texts else PromptClassifier
            return kind.load(folder, self.model, self.device, self.method)


AS_TRAINED = Loading()
"""Everything is where it was in training."""
