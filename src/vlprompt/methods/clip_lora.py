"""CLIP-LoRA (arXiv 2405.18541): low-rank updates of all attention projections, no prompts; a reference.

``peft`` was not taken: it replaces the stock modules, and merges or not for all callers at once; here the
updates stand beside the layers of a backbone that others use too, and share the engine's shortcuts.

Shapes: D width of a branch, r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.prompt import Beside, Prompt
from vlprompt.methods import base
from vlprompt.methods.base import Method
from vlprompt.methods.schedules import cosine
from vlprompt.typed import Between, Epochs, Rate

PARTS = ("query", "key", "value")
STEPS_PER_SHOT = 500


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """CLIP-LoRA: one setting for all data sets and shots."""

    optimizer: Literal["sgd", "adamw", "adam"] = "adamw"
    """AdamW as published, or another"""
    lr: Rate = 2e-4
    """learning rate; cosine decay to 1e-6, stepped at every step, no warm-up"""
    epochs: Epochs = 0
    """passes over the training images; 0: 500 steps for each image a class, as published"""
    weight_decay: float = 1e-2
    """weight decay"""
    rank: Annotated[int, Between(1, 4096)] = 2
    """rank of each update"""
    alpha: float = 1.0
    """updates are scaled by alpha / sqrt(rank)"""
    dropout: Annotated[float, Between(0, 1, "high")] = 0.25
    """share of the updates' inputs that is dropped in training"""


class LowRank(nn.Module):
    """s * B A drop(x), with s = alpha / sqrt(r), A Kaiming-uniform and B zero at the start."""

    def __init__(self, width: int, settings: Settings):
        super().__init__()
        self.a = nn.Parameter(torch.empty(settings.rank, width))
        self.b = nn.Parameter(torch.zeros(width, settings.rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale, self.dropout = settings.alpha / math.sqrt(settings.rank), settings.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        x = F.dropout(x.to(self.a.dtype), self.dropout, self.training)
        return self.scale * (x @ self.a.T) @ self.b.T


class CLIPLoRA(Method):
    """CLIP-LoRA: W -> W + s B A for query, key and value in every layer of both branches (section 3)."""

    name, title, paper, year = "clip_lora", "CLIP-LoRA", "2405.18541", 2024
    learns = "low-rank updates of queries, keys and values in every layer of both branches"
    needs = frozenset({"vision"})
    Settings = Settings

    def build(self) -> None:
        """A (r, D) and B (D, r) for every projection."""
        s, backbone = self.settings, self.encoder.backbone
        if not s.epochs:
            steps_a_pass = len(self.classnames) / s.batch_size  # for one shot
            self.settings = replace(s, epochs=math.ceil(STEPS_PER_SHOT / steps_a_pass))

        def updates(count: int, width: int) -> nn.ModuleList:
            layers = (nn.ModuleDict({p: LowRank(width, s) for p in PARTS}) for _ in range(count))
            return nn.ModuleList(layers).to(backbone.device)

        self.text = updates(len(backbone.text_layers), backbone.text_width)
        self.vision = updates(len(backbone.vision_layers), backbone.vision_width)

    def text_prompt(self) -> Prompt:
        """The updates of the text branch."""
        return self._beside(self.text)

    def vision_prompt(self) -> Prompt:
        """The updates of the vision branch."""
        return self._beside(self.vision)

    def _beside(self, layers: Any) -> Prompt:
        noisy = self.training and self.settings.dropout > 0
        return Prompt(beside=[Beside(**{p: layer[p] for p in PARTS}, noisy=noisy) for layer in layers])

    def learning_rate(self, at: float, epochs: int) -> float:
        """A cosine down to 1e-6, stepped at every step."""
        return cosine(self.settings.lr, at, epochs, low=1e-6)
