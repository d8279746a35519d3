"""Prompt learning for frozen vision-language models."""

__version__ = "0.1.0"

from vlprompt.classifier import PromptClassifier
from vlprompt.errors import UserError

__all__ = ["PromptClassifier", "UserError", "__version__"]
