"""From architecture weights to lengths, as published."""

from __future__ import annotations

from torch import Tensor

from vlprompt.methods.lengths import Lengths


def from_alphas(text: Tensor, vision: Tensor) -> Lengths:
    """The argmax of each layer's alphas (layers, C+1); the confidence is their softmax."""
    text_p, vision_p = (alphas.detach().cpu().double().softmax(-1) for alphas in (text, vision))
    (text_c, text_n), (vision_c, vision_n) = text_p.max(-1), vision_p.max(-1)
    return Lengths(*(tuple(x.tolist()) for x in (text_n, vision_n, text_c, vision_c)))
