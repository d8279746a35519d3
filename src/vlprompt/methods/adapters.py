"""What methods with an adapter on features share (CLIP-Adapter, CoPrompt).

Shapes: N features, E joint width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.encoder import Encoder


def feature_adapter(encoder: Encoder) -> nn.Sequential:
    """E -> E / 4 -> E, ReLU after both, no biases (arXiv 2110.04544, eq. 5)."""
    width = encoder.backbone.joint_width
    hidden = max(width // 4, 1)
    layers = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU()).to(encoder.backbone.device)


def adapted(features: Tensor, adapter: nn.Sequential, ratio: float) -> Tensor:
    """normalise(ratio * adapter(f) + (1 - ratio) * f), (N, E).

    The adapter has no biases, so the length of f falls away: normalised features give the same.
    """
    features = features.to(next(adapter.parameters()).dtype)
    return F.normalize(ratio * adapter(features) + (1 - ratio) * features, dim=-1)
