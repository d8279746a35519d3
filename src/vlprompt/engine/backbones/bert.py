"""BERT (arXiv 1810.04805), as ``transformers.BertModel``: an encoder whose tokens all see each other."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import BertModel

from vlprompt.engine.backbones.language import LanguageBackbone
from vlprompt.engine.backbones.protocol import Parts


class BertBackbone(LanguageBackbone):
    """A frozen BERT, read by the mean of a text's tokens; arguments as :class:`Backbone`, the model a
    ``BertModel``."""

    Model = BertModel
    options: ClassVar[dict[str, Any]] = {"add_pooling_layer": False}
    causal = False
    read_text = "mean"

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.text_layers = model.encoder.layer

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.model.embeddings.word_embeddings(ids)

    def text_positions(self, index: Tensor) -> Tensor:
        embeddings = self.model.embeddings
        return embeddings.position_embeddings(index) + embeddings.token_type_embeddings.weight[0]

    def enter_text(self, hidden: Tensor) -> Tensor:
        return self.model.embeddings.LayerNorm(hidden)

    def finish_text(self, hidden: Tensor) -> Tensor:
        return hidden

    def parts(self, layer: Any) -> Parts:
        attn = layer.attention.self

        def leave(hidden: Tensor, attended: Tensor) -> Tensor:
            return layer.feed_forward_chunk(layer.attention.output(attended, hidden))

        return Parts(
            lambda x: x, attn.query, attn.key, attn.value, attn.attention_head_size, attn.scaling, leave
        )
