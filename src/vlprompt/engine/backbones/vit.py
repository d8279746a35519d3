"""ViT (arXiv 2010.11929), as ``transformers.ViTModel``: a frozen image encoder without words."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import ViTModel

from vlprompt.data.transforms import image_stats
from vlprompt.engine.backbones.protocol import Backbone, Parts
from vlprompt.engine.prompt import Branch


class ViTBackbone(Backbone):
    """A frozen ViT, read at its class token; arguments as :class:`Backbone`, the model a ``ViTModel``."""

    Model = ViTModel
    options: ClassVar[dict[str, Any]] = {"add_pooling_layer": False}
    branches: ClassVar[frozenset[Branch]] = frozenset({"vision"})

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.vision_layers = self._layers()
        self.vision_width = self.joint_width = model.config.hidden_size
        # The processor decides: position embeddings are stretched to what it gives.
        self.image_size = image_stats(self.processor).size if self.processor else model.config.image_size
        self.patches = (self.image_size // model.config.patch_size) ** 2

    def _layers(self) -> Any:
        return self.model.layers

    def embed_image(self, pixels: Tensor) -> Tensor:
        return self.model.embeddings(pixels, interpolate_pos_encoding=True)

    def finish_vision(self, hidden: Tensor) -> Tensor:
        return self.norm_vision(hidden[:, 0])

    def norm_vision(self, hidden: Tensor) -> Tensor:
        return self.model.layernorm(hidden)

    def parts(self, layer: Any) -> Parts:
        attn = layer.attention

        def leave(hidden: Tensor, attended: Tensor) -> Tensor:
            hidden = hidden + attn.o_proj(attended)
            return hidden + layer.mlp(layer.layernorm_after(hidden))

        return Parts(
            layer.layernorm_before, attn.q_proj, attn.k_proj, attn.v_proj, attn.head_dim, attn.scaling, leave
        )
