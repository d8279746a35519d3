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

    def load(self, folder: Path) -> PromptClassifier:
        """The classifier of a folder.

        Raises:
            UserError: see :meth:`vlprompt.PromptClassifier.load`.
        """
        with no_collector():
            from vlprompt.estimator.classifier import PromptClassifier

            return PromptClassifier.load(folder, self.model, self.device, self.method)


AS_TRAINED = Loading()
"""Everything is where it was in training."""
