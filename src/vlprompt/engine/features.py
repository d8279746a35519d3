"""Features of a frozen backbone on disk: a feature that was computed once is not computed again.

A key names all that decides a feature to the last bit: the backbone's weights, the libraries and the
hardware, the precision, what went in, and of images the size of the batch that they were computed in.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlprompt.cache import ArrayCache
from vlprompt.files import cache_home

if TYPE_CHECKING:
    from vlprompt.engine.backbones.protocol import Backbone

LIMIT = 4 << 30
"""Bytes of all features: two million of 512 numbers."""
WORTH = 1 << 24
"""Parameters of a backbone; a smaller one computes a feature about as fast as a file opens."""
FORMAT = 1
"""Part of every key: features that are computed in another way need another number."""
LIBRARIES = ("torch", "transformers", "pillow", "numpy")


class FeatureStore:
    """Features (n, E) in float32, by a key each.

    Args:
        backbone: frozen.
        folder: where they are kept; None keeps none.
    """

    def __init__(self, backbone: Backbone, folder: Path | None):
        self.cache = ArrayCache(folder, "<f4", LIMIT) if folder else None
        self.width, self.device = backbone.joint_width, backbone.device
        self.backbone = _digest(
            *(FORMAT, *map(version, LIBRARIES), _hardware(backbone.device)),
            *(type(backbone).__name__, backbone.digest, str(backbone.dtype)),
            _described(backbone.model.config),  # not all that it decides is in the weights
        )
        self.processor = _digest(_described(backbone.processor) if backbone.processor else None)

    @classmethod
    def of(cls, backbone: Backbone) -> FeatureStore | None:
        """The store of a backbone's features; None for one that is not worth it, or not known in full.

        Nothing is known of the code of a family of the user's own.
        """
        ours = type(backbone).__module__.startswith("vlprompt.")
        if not ours or not backbone.digest or backbone.dtype == torch.float64:
            return None
        if sum(p.numel() for p in backbone.model.parameters()) < WORTH:
            return None
        home = cache_home()
        return cls(backbone, home and home / "features")

    def get(self, key: str) -> Tensor | None:
        """The features (n, E) of a key, on the backbone's device; None where there are none."""
        found = self.cache.get(self.cache.named(self._full(key))) if self.cache else None
        if found is None or found.shape[1] != self.width:
            return None
        return torch.tensor(found, device=self.device)  # a copy: thousands of mapped files would be too many

    def put(self, key: str, features: Tensor) -> None:
        """Keep features (n, E), if there is room."""
        if self.cache and features.dtype == torch.float32:
            self.cache.put(self.cache.named(self._full(key)), features.cpu().numpy())

    def _full(self, key: str) -> str:
        return f"{self.backbone}|{torch.get_float32_matmul_precision()}|{key}"


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _described(settings: Any) -> Any:
    """What a configuration or an image processor of ``transformers`` says, but for names of places."""
    values = json.loads(json.dumps(settings.to_dict(), default=str))
    return {key: value for key, value in values.items() if not key.startswith("_")}


def _hardware(device: torch.device) -> str:
    """What computes: kinds of processors differ in the last bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
