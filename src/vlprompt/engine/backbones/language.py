"""What frozen language models have in common: one branch, of text, that reads what is classified."""

from __future__ import annotations

from typing import Any, ClassVar

from vlprompt.engine.backbones.protocol import Backbone
from vlprompt.engine.prompt import Branch


class LanguageBackbone(Backbone):
    """A frozen language model, without what it says its next word with; arguments as :class:`Backbone`."""

    branches: ClassVar[frozenset[Branch]] = frozenset({"text"})

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.text_width = self.joint_width = model.config.hidden_size
        self.max_positions = model.config.max_position_embeddings
        if self.tokenizer is not None:  # what it puts around a text
            whole, bare = (self.tokenizer("a", add_special_tokens=s)["input_ids"] for s in (True, False))
            self.starts = whole.index(bare[0])
            self.ends = len(whole) - self.starts - len(bare)
