"""What a family of backbones gives the encoder, in common words: embed, enter, layers, finish.

A family is a file beside this one with a subclass of :class:`Backbone`, the only place that knows the
names inside its stock model, and a row in ``load.FAMILIES``.

Shapes: B rows, T positions, D width of a branch, E joint width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from vlprompt.engine.activation import fuse_activations
from vlprompt.engine.attention import NAME, AttentionPrompt, prompt_attention
from vlprompt.errors import UserError

AttentionInterface.register(NAME, prompt_attention)


class Backbone(ABC):
    """A frozen dual encoder, its text branch causal and read at the end-of-text token, or reading all.

    Its layers run as ``transformers`` wrote them, with the attention function of
    :mod:`vlprompt.engine.attention`.

    Args:
        model: the stock model; set to eval mode, gradients off, attention function exchanged.
        tokenizer: called with a list of texts, gives ``{"input_ids": lists}`` with start and end.
        processor: image processor of ``transformers``; ``None`` where images come as tensors.
        name: what the user called it: ``toy``, ``toy-deep``, a hub id or a folder.
        revision: commit of a hub model; ``None`` for a folder.
        digest: of the weights, which is what the backbone is; "" where they come from nowhere.
    """

    Model: ClassVar[Any]
    """class of the stock model"""
    text_layers: nn.ModuleList
    vision_layers: nn.ModuleList
    text_width: int
    vision_width: int
    joint_width: int
    image_size: int
    """height and width of the pixels, which are square"""
    patches: int
    """of one image; behind a class token, where there is one"""
    max_positions: int
    """of the text branch"""
    starts: int = 1
    """tokens that the tokenizer puts before a text; one end token stands behind it"""
    pad: int | None = None
    """token that fills sequences up to max_positions, where the text branch reads all of them"""
    read_tokens: int = 1
    """leading positions that an image feature is made of: the class token, or all patches"""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any = None,
        name: str = "",
        revision: str | None = None,
        digest: str = "",
    ):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, processor
        self.name, self.revision, self.digest = name, revision, digest
        fuse_activations(model)
        model.set_attn_implementation(NAME)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.logit_scale.dtype

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """The log of the scale between cosine and logit, a scalar."""

    # The text branch.

    @abstractmethod
    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token ids (...) -> token embeddings (..., D), without positions."""

    @abstractmethod
    def text_positions(self, index: Tensor) -> Tensor:
        """Position embeddings (..., D) of positions (...)."""

    @abstractmethod
    def finish_text(self, hidden: Tensor) -> Tensor:
        """Hidden states where text is read, its end (..., D) -> class features (..., E)."""

    # The vision branch.

    @abstractmethod
    def embed_image(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> class token, if any, and patches with positions (B, [1 +] patches, D)."""

    @abstractmethod
    def enter_vision(self, hidden: Tensor) -> Tensor:
        """What stands between the embeddings, prompts included, and the first layer; (B, T, D) stays."""

    @abstractmethod
    def finish_vision(self, hidden: Tensor) -> Tensor:
        """Last hidden states (B, T, D), first those that are read -> image features (B, E)."""

    def norm_vision(self, hidden: Tensor) -> Tensor:
        """The vision branch's last norm (B, T, D), for features made of other tokens than its own.

        Raises:
            UserError: a family that has none.
        """
        raise UserError(f"backbone '{self.name}' has no last norm for tokens: use another method")

    # A layer of either branch.

    @abstractmethod
    def enter_attention(self, layer: Any, hidden: Tensor) -> Tensor:
        """What a layer's attention projects: its input (..., D), normed."""

    @abstractmethod
    def keys_values(self, layer: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values (..., h, c, d) of prompt tokens (..., c, D): norm, then projection."""

    @abstractmethod
    def run_layer(self, layer: Any, hidden: Tensor, prompt: AttentionPrompt) -> Tensor:
        """One stock layer, its attention told what to add: (B, T, D) -> (B, T, D)."""

    @abstractmethod
    def run_last_layer(
        self, layer: Any, hidden: Tensor, prompt: AttentionPrompt, read: Tensor | slice
    ) -> Tensor:
        """A stock layer at the positions that are read: these see all, nothing else goes on.

        Args:
            hidden: (B, T, D).
            read: (R,) positions.

        Returns:
            (B, R, D), equal to ``run_layer(...)[:, read]``.
        """
