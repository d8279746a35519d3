"""GPT-2 and its kin of the same architecture, as ``transformers.GPT2Model``: learned positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Model

from vlprompt.engine.backbones.language import LanguageBackbone
from vlprompt.engine.backbones.protocol import Parts


class GPT2Backbone(LanguageBackbone):
    """A frozen GPT-2, read at a text's last token; the model a ``GPT2Model``."""

    Model = GPT2Model

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.text_layers = model.h

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.model.wte(ids)

    def text_positions(self, index: Tensor) -> Tensor:
        return self.model.wpe(index)

    def finish_text(self, hidden: Tensor) -> Tensor:
        return self.model.ln_f(hidden)

    def parts(self, layer: Any) -> Parts:
        attn, width = layer.attn, self.text_width

        def third(number: int) -> Callable[[Tensor], Tensor]:
            """Queries, keys or values, which one matrix (D, 3 D) makes."""
            part = slice(number * width, (number + 1) * width)
            return lambda x: F.linear(x, attn.c_attn.weight[:, part].T, attn.c_attn.bias[part])

        def leave(hidden: Tensor, attended: Tensor) -> Tensor:
            hidden = hidden + attn.c_proj(attended)
            return hidden + layer.mlp(layer.ln_2(hidden))

        return Parts(layer.ln_1, third(0), third(1), third(2), attn.head_dim, attn.scaling, leave)
