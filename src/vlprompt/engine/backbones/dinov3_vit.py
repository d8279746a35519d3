"""DINOv3's ViT (arXiv 2508.10104), as ``transformers.DINOv3ViTModel``: rotary positions and registers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DINOv3ViTModel

from vlprompt.engine.attention import AttentionPrompt
from vlprompt.engine.backbones.dinov2 import Dinov2Backbone


class Dinov3ViTBackbone(Dinov2Backbone):
    """A frozen DINOv3 ViT; arguments as :class:`Backbone`, the model a ``DINOv3ViTModel``.

    Patches alone have positions; class token, registers and prompts are not turned.
    """

    Model = DINOv3ViTModel

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.registers = model.config.num_register_tokens
        pixels = torch.zeros(1, 1, self.image_size, self.image_size, device=self.device, dtype=self.dtype)
        self.turns: tuple[Tensor, Tensor] = model.rope_embeddings(pixels)
        """cosines and sines (patches, d)"""

    def _layers(self) -> Any:
        return self.model.model.layer

    def rotary(self, hidden: Tensor, prompt: AttentionPrompt) -> tuple[Tensor, Tensor]:
        front = 1 + self.registers
        around = (0, 0, front, hidden.shape[1] - front - self.patches)
        cos, sin = self.turns
        return F.pad(cos, around, value=1.0)[None], F.pad(sin, around)[None]

    def norm_vision(self, hidden: Tensor) -> Tensor:
        return self.model.norm(hidden)
