"""Image encoders without words, with random weights, as ``transformers`` writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
STOCK = {"vit": ViTModel, "dinov2": Dinov2Model, "dinov3_vit": DINOv3ViTModel}


def write(family: str, folder: Path) -> Path:
    """A folder of a family with random weights, none of them left at zero or one."""
    torch.manual_seed(8)
    model = {
        "vit": lambda: ViTForImageClassification(ViTConfig(**SIZES)),  # as ViTs on the hub are
        "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)),
        "dinov3_vit": lambda: DINOv3ViTModel(DINOv3ViTConfig(**SIZES, num_register_tokens=2)),
    }[family]()
    shake(model)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def shake(model: nn.Module) -> None:
    """Random numbers on all weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
