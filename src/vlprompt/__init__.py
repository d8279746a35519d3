"""Prompt learning for frozen vision-language models."""

__version__ = "0.1.0"

import warnings
from typing import TYPE_CHECKING, Any

from vlprompt.errors import UserError

# In notebooks tqdm, which comes with transformers, asks for ipywidgets; no bar of its own is shown.
warnings.filterwarnings("ignore", message="IProgress not found")

if TYPE_CHECKING:
    from vlprompt.estimator.classifier import PromptClassifier
    from vlprompt.estimator.text import TextPromptClassifier

__all__ = ["PromptClassifier", "TextPromptClassifier", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    """Torch is imported when it is needed: a command's help and a mistyped one answer at once."""
    if name == "PromptClassifier":
        from vlprompt.estimator.classifier import PromptClassifier

        return PromptClassifier
    if name == "TextPromptClassifier":
        from vlprompt.estimator.text import TextPromptClassifier

        return TextPromptClassifier
    raise AttributeError(f"module 'vlprompt' has no attribute '{name}'")
