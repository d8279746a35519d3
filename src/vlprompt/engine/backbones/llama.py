"""Llama and Qwen2, as ``transformers.LlamaModel`` and ``Qwen2Model``: rotary positions, grouped queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaModel, Qwen2Model

from vlprompt.engine.attention import AttentionPrompt
from vlprompt.engine.backbones.language import LanguageBackbone
from vlprompt.engine.backbones.protocol import Parts
from vlprompt.errors import UserError


class LlamaBackbone(LanguageBackbone):
    """A frozen Llama, read at a text's last token; the model a ``LlamaModel``.

    Keys of prompts are not turned: to every token they stand where the text begins.
    """

    Model = LlamaModel

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.text_layers = model.layers

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.model.embed_tokens(ids)

    def text_positions(self, index: Tensor) -> Tensor:
        return torch.zeros((), device=self.device, dtype=self.dtype)  # they are turns in every layer

    def rotary(self, hidden: Tensor, prompt: AttentionPrompt) -> tuple[Tensor, Tensor]:
        assert prompt.pack is not None
        return self.model.rotary_emb(hidden, prompt.pack.positions(hidden.device)[None])

    def finish_text(self, hidden: Tensor) -> Tensor:
        return self.model.norm(hidden)

    def parts(self, layer: Any) -> Parts:
        attn = layer.self_attn

        def leave(hidden: Tensor, attended: Tensor) -> Tensor:
            hidden = hidden + attn.o_proj(attended)
            return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

        return Parts(
            layer.input_layernorm, attn.q_proj, attn.k_proj, attn.v_proj, attn.head_dim, attn.scaling, leave
        )


class Qwen2Backbone(LlamaBackbone):
    """A frozen Qwen2 or 2.5, whose layers are those of a Llama; the model a ``Qwen2Model``."""

    Model = Qwen2Model

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        if model.has_sliding_layers:
            raise UserError(f"backbone '{self.name}' has layers with a sliding window: give one without")
