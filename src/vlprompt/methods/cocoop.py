"""CoCoOp, Conditional Context Optimization (arXiv 2203.05557): the context depends on the image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.methods import base
from vlprompt.methods.base import Batch, Losses, Method
from vlprompt.methods.rows import context_parameter, learnable_rows
from vlprompt.typed import BatchSize, Epochs, Length


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """CoCoOp."""

    epochs: Epochs = 10
    """passes over the training images"""
    batch_size: BatchSize = 1
    """images a step"""
    n_ctx: Length = 4
    """context length"""
    ctx_init: str = "a photo of a"
    """words whose embeddings start the context; empty for a random start"""


class CoCoOp(Method):
    """CoCoOp: context(x) = ctx + meta_net(image feature x), one vector added to every context token."""

    name, title, paper, year = "cocoop", "CoCoOp", "2203.05557", 2022
    learns = "text context and a meta-net on the image feature"
    Settings = Settings

    def build(self) -> None:
        """Context (n, D) and the meta-net E -> E / 16 -> D (section 3.2)."""
        s, backbone = self.settings, self.encoder.backbone
        self.ctx = context_parameter(self.encoder, s.n_ctx, s.ctx_init)
        width, hidden = backbone.joint_width, backbone.joint_width // 16
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(width, hidden),
                relu=nn.ReLU(inplace=True),
                linear2=nn.Linear(hidden, backbone.text_width),
            )
        ).to(backbone.device)

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """[start][context][class name][.][end]."""
        return learnable_rows(self.encoder, classnames, self.settings.n_ctx, self.settings.ctx_init)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K): every image is compared with class features of its own."""
        image_features = self.image_features(images)  # (B, E)
        shift = self.meta_net(image_features.to(self.ctx.dtype))  # (B, D)
        context = self.ctx + shift[:, None]  # (B, n, D)
        class_features = self.encoder.encode_text(self.sequences, Prompt(context))  # (B, K, E)
        return self.logits(image_features[:, None], class_features)[:, 0]

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy."""
        return {"loss": F.cross_entropy(self(batch.images), batch.labels)}

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """Nothing can be done once for all images."""
        return self
