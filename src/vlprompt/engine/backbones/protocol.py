"""What a family of backbones gives the encoder, in common words: branches, embed, layers, what is read.

A family is a file beside this one with a subclass of :class:`Backbone`, the only place that knows the
names inside its stock model, and a row in ``load.FAMILIES``.

Shapes: B rows, T positions, D width of a branch, E joint width, h heads, d width of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from vlprompt.engine.activation import fuse_activations
from vlprompt.engine.attention import NAME, AttentionPrompt, heads, prompt_attention
from vlprompt.engine.linear import keep_casts
from vlprompt.engine.prompt import Branch
from vlprompt.errors import UserError

AttentionInterface.register(NAME, prompt_attention)

SCALE = 100.0
"""Between cosine and logit where a backbone has none of its own: the largest that CLIP allows itself."""


class Parts(NamedTuple):
    """A stock layer taken apart, as far as prompts reach into it.

    Args:
        norm: what stands in front of attention's projections.
        query, key, value: normed input (..., D) -> (..., h * d); keys and values may have fewer heads.
        width: d.
        scale: of the scores.
        leave: the layer's input and what attention gives (..., h * d) -> the layer's output (..., D).
    """

    norm: Callable[[Tensor], Tensor]
    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    width: int
    scale: float
    leave: Callable[[Tensor, Tensor], Tensor]


class Backbone(ABC):
    """A frozen model with a branch for text, one for images, or both.

    With both, class names are read by the text branch: causal and read at the end-of-text token, or
    reading all. With one, it reads what is classified, and classes are a learned head. Layers run as
    ``transformers`` wrote them, with the attention function of :mod:`vlprompt.engine.attention`.

    Args:
        model: the stock model; set to eval mode, gradients off, attention function exchanged.
        tokenizer: called with a list of texts, gives ``{"input_ids": lists}``; ``None`` without text branch.
        processor: image processor of ``transformers``; ``None`` where images come as tensors, or none come.
        name: what the user called it: ``toy``, ``toy-deep``, a hub id or a folder.
        revision: commit of a hub model; ``None`` for a folder.
        digest: of the weights, which is what the backbone is; "" where they come from nowhere.
    """

    Model: ClassVar[Any]
    """class of the stock model"""
    options: ClassVar[dict[str, Any]] = {}
    """arguments of that class beside its configuration"""
    branches: ClassVar[frozenset[Branch]] = frozenset({"text", "vision"})
    text_layers: Sequence[nn.Module] = ()
    vision_layers: Sequence[nn.Module] = ()
    text_width: int = 0
    vision_width: int = 0
    joint_width: int
    image_size: int
    """height and width of the pixels, which are square"""
    patches: int
    """of one image; behind a class token, where there is one, and registers"""
    registers: int = 0
    """tokens between the class token and the patches"""
    max_positions: int
    """of the text branch"""
    starts: int = 1
    """tokens that the tokenizer puts before a text"""
    ends: int = 1
    """tokens that it puts behind one"""
    causal: bool = True
    """whether a position of text sees only what stands before it"""
    pad: int | None = None
    """token that fills sequences up to max_positions, where the text branch reads all of them"""
    read_text: Literal["last", "mean"] = "last"
    """what a text's feature is made of: its last token, or all"""
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
        keep_casts(model)
        model.set_attn_implementation(NAME)

    @property
    def names_classes(self) -> bool:
        """Whether a class is known by its name; otherwise by a learned head."""
        return len(self.branches) == 2

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def logit_scale(self) -> Tensor:
        """The log of the scale between cosine and logit, a scalar."""
        return torch.tensor(SCALE, device=self.device, dtype=self.dtype).log()

    # The text branch, where there is one.

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token ids (...) -> token embeddings (..., D), without positions."""
        raise NotImplementedError

    def text_positions(self, index: Tensor) -> Tensor:
        """Position embeddings (..., D) of positions (...)."""
        raise NotImplementedError

    def enter_text(self, hidden: Tensor) -> Tensor:
        """What stands between the embeddings and the first layer; (B, T, D) stays."""
        return hidden

    def finish_text(self, hidden: Tensor) -> Tensor:
        """Hidden states where text is read (..., D) -> features (..., E)."""
        raise NotImplementedError

    # The vision branch, where there is one.

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> class token, if any, and patches with positions (B, [1 +] patches, D)."""
        raise NotImplementedError

    def enter_vision(self, hidden: Tensor) -> Tensor:
        """What stands between the embeddings, prompts included, and the first layer; (B, T, D) stays."""
        return hidden

    def finish_vision(self, hidden: Tensor) -> Tensor:
        """Last hidden states (B, T, D), first those that are read -> image features (B, E)."""
        raise NotImplementedError

    def norm_vision(self, hidden: Tensor) -> Tensor:
        """The vision branch's last norm (B, T, D), for features made of other tokens than its own.

        Raises:
            UserError: a family that has none.
        """
        raise UserError(f"backbone '{self.name}' has no last norm for tokens: use another method")

    # A layer of either branch.

    @abstractmethod
    def parts(self, layer: Any) -> Parts:
        """A layer taken apart."""

    def rotary(self, hidden: Tensor, prompt: AttentionPrompt) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines (1, T, d) of rotary positions; keys of prompts have none, so they are not turned.

        Args:
            hidden: (B, T, D). prompt: its ``pack`` says where text stands.
        """
        return None

    def keys_values(self, layer: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values (..., h, c, d) of prompt tokens (..., c, D): norm, then projection."""
        parts = self.parts(layer)
        normed = parts.norm(tokens)
        return heads(parts.key(normed), parts.width), heads(parts.value(normed), parts.width)

    def run_layer(self, layer: Any, hidden: Tensor, prompt: AttentionPrompt) -> Tensor:
        """One stock layer, its attention told what to add: (B, T, D) -> (B, T, D)."""
        turned = self.rotary(hidden, prompt)
        positions = {} if turned is None else {"position_embeddings": turned}
        return layer(hidden, attention_mask=None, prompt=prompt, **positions)

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
        parts = self.parts(layer)
        normed = parts.norm(hidden)
        query, key, value = (
            project(x).unflatten(-1, (-1, parts.width)).transpose(1, 2)  # (B, h, R or T, d)
            for project, x in ((parts.query, normed[:, read]), (parts.key, normed), (parts.value, normed))
        )
        if (turned := self.rotary(hidden, prompt)) is not None:
            cos, sin = turned
            query, key = rotate(query, cos[:, read], sin[:, read]), rotate(key, cos, sin)
        attended, _ = prompt_attention(layer, query, key, value, None, scaling=parts.scale, prompt=prompt)
        return parts.leave(hidden[:, read], attended.flatten(2))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (1, T, d) on queries or keys (B, h, T, d); halves of d are turned with each other."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
