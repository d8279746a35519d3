"""CLIP and its kin of the same architecture (OpenAI, LAION, MetaCLIP), as ``transformers.CLIPModel``."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import CLIPModel, CLIPVisionModel

from vlprompt.engine.backbones.protocol import Backbone, Parts
from vlprompt.engine.prompt import Branch


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

    def parts(self, layer: Any) -> Parts:
        return clip_parts(layer)


class CLIPVisionBackbone(Backbone):
    """The image branch of a frozen CLIP alone, before its projection; the model a ``CLIPVisionModel``."""

    Model = CLIPVisionModel
    branches: ClassVar[frozenset[Branch]] = frozenset({"vision"})

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.vision_layers = model.encoder.layers
        self.vision_width = self.joint_width = model.config.hidden_size
        self.image_size, self.patches = model.config.image_size, model.embeddings.num_patches

    def embed_image(self, pixels: Tensor) -> Tensor:
        return self.model.embeddings(pixels)

    def enter_vision(self, hidden: Tensor) -> Tensor:
        return self.model.pre_layrnorm(hidden)

    def finish_vision(self, hidden: Tensor) -> Tensor:
        return self.norm_vision(hidden[:, 0])

    def norm_vision(self, hidden: Tensor) -> Tensor:
        return self.model.post_layernorm(hidden)

    def parts(self, layer: Any) -> Parts:
        return clip_parts(layer)


def clip_parts(layer: Any) -> Parts:
    """A layer of either branch of a CLIP, taken apart."""
    attn = layer.self_attn

    def leave(hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = hidden + attn.out_proj(attended)
        return hidden + layer.mlp(layer.layer_norm2(hidden))

    return Parts(layer.layer_norm1, attn.q_proj, attn.k_proj, attn.v_proj, attn.head_dim, attn.scale, leave)
