"""CLIP and its kin of the same architecture (OpenAI, LAION, MetaCLIP), as ``transformers.CLIPModel``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import CLIPModel

from vlprompt.engine.attention import AttentionPrompt, prompt_attention
from vlprompt.engine.backbones.protocol import Backbone


class CLIPBackbone(Backbone):
    """A frozen CLIP (arXiv 2103.00020); arguments as :class:`Backbone`, the model a ``CLIPModel``."""

    Model = CLIPModel

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        text, vision = model.text_model, model.vision_model
        self.text_layers, self.vision_layers = text.encoder.layers, vision.encoder.layers
        self.text_width, self.vision_width = text.config.hidden_size, vision.config.hidden_size
        self.joint_width = self._joint_width()
        self.image_size = vision.config.image_size
        self.patches = vision.embeddings.num_patches
        self.max_positions = text.config.max_position_embeddings

    def _joint_width(self) -> int:
        return self.model.config.projection_dim

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.model.text_model.embeddings.token_embedding(ids)

    def text_positions(self, index: Tensor) -> Tensor:
        return self.model.text_model.embeddings.position_embedding(index)

    def finish_text(self, hidden: Tensor) -> Tensor:
        return self.model.text_projection(self.model.text_model.final_layer_norm(hidden))

    def embed_image(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model.embeddings(pixels)

    def enter_vision(self, hidden: Tensor) -> Tensor:
        return self.model.vision_model.pre_layrnorm(hidden)

    def finish_vision(self, hidden: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model.post_layernorm(hidden[:, 0]))

    def norm_vision(self, hidden: Tensor) -> Tensor:
        return self.model.vision_model.post_layernorm(hidden)

    def enter_attention(self, layer: Any, hidden: Tensor) -> Tensor:
        return layer.layer_norm1(hidden)

    def keys_values(self, layer: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        normed, attn = layer.layer_norm1(tokens), layer.self_attn
        split = (-1, attn.head_dim)
        key, value = attn.k_proj(normed).unflatten(-1, split), attn.v_proj(normed).unflatten(-1, split)
        return key.transpose(-3, -2), value.transpose(-3, -2)

    def run_layer(self, layer: Any, hidden: Tensor, prompt: AttentionPrompt) -> Tensor:
        return layer(hidden, None, prompt=prompt)

    def run_last_layer(
        self, layer: Any, hidden: Tensor, prompt: AttentionPrompt, read: Tensor | slice
    ) -> Tensor:
        attn, normed = layer.self_attn, layer.layer_norm1(hidden)
        query, key, value = (
            project(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)  # (B, h, R or T, d)
            for project, x in ((attn.q_proj, normed[:, read]), (attn.k_proj, normed), (attn.v_proj, normed))
        )
        attended, _ = prompt_attention(attn, query, key, value, None, scaling=attn.scale, prompt=prompt)
        hidden = hidden[:, read] + attn.out_proj(attended.flatten(2))
        return hidden + layer.mlp(layer.layer_norm2(hidden))
