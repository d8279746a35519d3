"""DINOv2 (arXiv 2304.07193), as ``transformers.Dinov2Model``: a ViT whose layers scale what they add."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import Dinov2Model

from vlprompt.engine.backbones.protocol import Parts
from vlprompt.engine.backbones.vit import ViTBackbone


class Dinov2Backbone(ViTBackbone):
    """A frozen DINOv2; arguments as :class:`Backbone`, the model a ``Dinov2Model``."""

    Model = Dinov2Model
    options: ClassVar[dict[str, Any]] = {}

    def _layers(self) -> Any:
        return self.model.encoder.layer

    def embed_image(self, pixels: Tensor) -> Tensor:
        return self.model.embeddings(pixels)

    def parts(self, layer: Any) -> Parts:
        attn = layer.attention

        def leave(hidden: Tensor, attended: Tensor) -> Tensor:
            hidden = hidden + layer.layer_scale1(attn.o_proj(attended))
            return hidden + layer.layer_scale2(layer.mlp(layer.norm2(hidden)))

        return Parts(layer.norm1, attn.q_proj, attn.k_proj, attn.v_proj, attn.head_dim, attn.scaling, leave)
