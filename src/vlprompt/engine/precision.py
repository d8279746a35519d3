"""Precision of what is frozen: bfloat16 where the processor has it and the model stands it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vlprompt.engine.encoder import Encoder

WORTH = 1 << 25
"""Parameters of a backbone; a smaller one gains too little to be worth any change."""
STANDS = 0.999
"""Smallest cosine between the two features of an image at which a model stands bfloat16."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def worth_trying(encoder: Encoder, device: torch.device | None = None) -> bool:
    """Whether bfloat16 is there and would gain something for this backbone.

    Args:
        device: where it is to compute; where it is now by default.
    """
    backbone = encoder.backbone
    parameters = sum(p.numel() for p in backbone.model.parameters())
    worth = backbone.dtype == torch.float32 and parameters >= WORTH
    return worth and has_bfloat16(device or backbone.device)


def change(exact: Tensor, rough: Tensor, classes: Tensor) -> tuple[float, int]:
    """What bfloat16 does to image features.

    Args:
        exact, rough: features (B, E) of the same images in float32 and with bfloat16.
        classes: class features (K, E) to predict with.

    Returns:
        The smallest cosine between an image's two features, and how many of the B predictions are others.
    """
    others = (exact @ classes.mT).argmax(-1) != (rough @ classes.mT).argmax(-1)
    return float(F.cosine_similarity(exact, rough).min()), int(others.sum())
