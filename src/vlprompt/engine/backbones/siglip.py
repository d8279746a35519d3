"""SigLIP (arXiv 2303.15343) and SigLIP 2 of fixed resolution, as ``transformers.SiglipModel``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import SiglipModel

from vlprompt.engine.attention import AttentionPrompt
from vlprompt.engine.backbones.clip import CLIPBackbone
from vlprompt.errors import UserError


class SiglipBackbone(CLIPBackbone):
    """A frozen SigLIP, whose layers are those of a CLIP; arguments as :class:`Backbone`.

    Text is not causal: every position sees all others, padding too, and the last is read, padding or
    not. An image feature is pooled from all patches by an attention with a learned probe, so prompts
    behind the patches are seen by them and not read. The logits' bias is the same for all classes; a
    softmax over classes cancels it.
    """

    Model = SiglipModel
    starts = 0
    causal = False

    def __init__(self, model: Any, tokenizer: Any, *args: Any, **kwargs: Any):
        if not model.vision_model.use_head:
            raise UserError("this SigLIP has no pooling head, so its images have no feature: give another")
        super().__init__(model, tokenizer, *args, **kwargs)
        self.read_tokens = self.patches
        self.pad = model.config.text_config.pad_token_id if tokenizer is None else tokenizer.pad_token_id

    def _joint_width(self) -> int:
        return self.model.config.text_config.projection_size

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale[0]

    def finish_text(self, hidden: Tensor) -> Tensor:
        return self.model.text_model.head(self.model.text_model.final_layer_norm(hidden))

    def enter_vision(self, hidden: Tensor) -> Tensor:
        return hidden

    def finish_vision(self, hidden: Tensor) -> Tensor:
        vision = self.model.vision_model
        return vision.head(vision.post_layernorm(hidden[:, : self.patches]))

    def run_layer(self, layer: Any, hidden: Tensor, prompt: AttentionPrompt) -> Tensor:
        return self.run_last_layer(layer, hidden, prompt, slice(None))  # the stock one passes no prompt on
