"""Frozen dual encoders of ``transformers``: loading, and the one place that knows module names.

A :class:`Backbone` gives the parts of a stock model in common words: embed, enter, layers, finish.
The layers themselves run as ``transformers`` wrote them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlprompt.engine import attention
from vlprompt.engine.activation import fuse_activations
from vlprompt.engine.attention import AttentionPrompt
from vlprompt.errors import UserError

TOY = "toy"
TOY_FOLDER = Path(__file__).parents[2] / "toy" / "backbone"
SMALLEST_VOCABULARY = 256
"""A byte-level tokenizer has a token for every byte."""


class Backbone:
    """A frozen dual encoder with a causal text branch.

    Args:
        model: the stock model; set to eval mode, gradients off, attention function exchanged.
        tokenizer: called with a list of texts, gives ``{"input_ids": lists}`` with start and end.
        processor: image processor of ``transformers``; ``None`` where images come as tensors.
        name: what the user called it: ``toy``, a hub id or a folder.
        revision: commit of a hub model or digest of local weights; ``None`` if unknown.
    """

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any = None, name: str = "", revision: str | None = None
    ):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, processor
        self.name, self.revision = name, revision
        fuse_activations(model)
        text, vision = model.text_model, model.vision_model
        text.set_attn_implementation(attention.NAME)
        vision.set_attn_implementation(attention.NAME)
        self.text_layers: nn.ModuleList = text.encoder.layers
        self.vision_layers: nn.ModuleList = vision.encoder.layers
        self.text_width: int = model.config.text_config.hidden_size
        self.vision_width: int = model.config.vision_config.hidden_size
        self.joint_width: int = model.config.projection_dim
        self.image_size: int = model.config.vision_config.image_size
        self.max_positions: int = model.config.text_config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.logit_scale.dtype

    @property
    def logit_scale(self) -> Tensor:
        """The log of the scale between cosine and logit, a scalar."""
        return self.model.logit_scale

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token ids (...) -> token embeddings (..., text width), without positions."""
        return self.model.text_model.embeddings.token_embedding(ids)

    def text_positions(self, index: Tensor) -> Tensor:
        """Position embeddings (..., text width) of positions (...)."""
        return self.model.text_model.embeddings.position_embedding(index)

    def finish_text(self, hidden: Tensor) -> Tensor:
        """Hidden states at the end-of-text tokens (..., text width) -> class features (..., joint width)."""
        return self.model.text_projection(self.model.text_model.final_layer_norm(hidden))

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> class token and patches with positions (B, 1 + patches, vision width)."""
        return self.model.vision_model.embeddings(pixels)

    def enter_vision(self, hidden: Tensor) -> Tensor:
        """What stands between the embeddings, prompts included, and the first layer."""
        return self.model.vision_model.pre_layrnorm(hidden)

    def finish_vision(self, hidden: Tensor) -> Tensor:
        """Last hidden states (B, T, vision width) -> image features (B, joint width)."""
        return self.model.visual_projection(self.model.vision_model.post_layernorm(hidden[:, 0]))

    @staticmethod
    def keys_values(layer: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values (h, c, d) of prompt tokens (c, width): first norm, then projection."""
        normed, attn = layer.layer_norm1(tokens), layer.self_attn
        split = (-1, attn.head_dim)
        key, value = attn.k_proj(normed).unflatten(-1, split), attn.v_proj(normed).unflatten(-1, split)
        return key.transpose(0, 1), value.transpose(0, 1)

    @staticmethod
    def run_layer(layer: Any, hidden: Tensor, prompt: AttentionPrompt) -> Tensor:
        """One stock layer, its attention told what to add. (B, T, width) -> the same shape."""
        return layer(hidden, None, prompt=prompt)

    @staticmethod
    def run_last_layer(layer: Any, hidden: Tensor, prompt: AttentionPrompt, read: Tensor) -> Tensor:
        """A stock layer at the positions that are read: these see all, nothing else goes on.

        Args:
            hidden: (B, T, width).
            read: (R,) positions.

        Returns:
            (B, R, width), equal to ``run_layer(...)[:, read]``.
        """
        attn, normed = layer.self_attn, layer.layer_norm1(hidden)
        query, key, value = (
            project(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)  # (B, h, R or T, d)
            for project, x in ((attn.q_proj, normed[:, read]), (attn.k_proj, normed), (attn.v_proj, normed))
        )
        attend = ALL_ATTENTION_FUNCTIONS[attn.config._attn_implementation]
        attended, _ = attend(attn, query, key, value, None, scaling=attn.scale, prompt=prompt)
        hidden = hidden[:, read] + attn.out_proj(attended.flatten(2))
        return hidden + layer.mlp(layer.layer_norm2(hidden))


def load(name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """Load a frozen backbone by name.

    Args:
        name: ``toy``, a local folder in the format of ``transformers``, or a hub id.

    Raises:
        UserError: nothing there, no network, no safetensors weights, or not a known family.
    """
    source: str | Path = TOY_FOLDER if name == TOY else name
    local = Path(source).expanduser()
    if name != TOY and not local.is_dir() and (local.exists() or str(name).count("/") != 1):
        raise UserError(
            f"model '{name}' is neither a folder nor a hub id such as openai/clip-vit-base-patch16: "
            "give one of these, or the built-in 'toy'"
        )
    target = str(local) if local.is_dir() else str(source)
    config = _config(name, target)
    if config.get("model_type") != "clip":
        raise UserError(
            f"model '{name}' is of type '{config.get('model_type')}': give a dual encoder of type 'clip'"
        )
    try:
        model, report = AutoModel.from_pretrained(
            target,
            use_safetensors=True,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below
        )
        tokenizer = AutoTokenizer.from_pretrained(target)
        processor = load_processor(target)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model '{name}' cannot be loaded: {reason} "
            "(it needs config.json, model.safetensors, tokenizer and preprocessor_config.json)"
        ) from error
    except Exception as error:  # safetensors raises its own type for a truncated file
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"model '{name}': its weights file is damaged ({error}): copy it again") from error
    assert isinstance(model, CLIPModel)
    unfit = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    if absent := sorted({*report["missing_keys"], *unfit}):
        raise UserError(
            f"model '{name}': its weights lack '{absent[0]}' in the shape that config.json asks for "
            f"({len(absent)} in all): copy the whole folder again"
        )
    if len(tokenizer) < SMALLEST_VOCABULARY:  # what transformers makes of a folder without one
        raise UserError(f"model '{name}' has no tokenizer: copy its tokenizer files into the folder")
    return Backbone(model.to(device), tokenizer, processor, name, _revision(target, config))


def load_processor(target: str) -> Any:
    """The image processor through its PIL back end, which needs no torchvision."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(target, backend="pil")


def _config(name: str, target: str) -> dict[str, Any]:
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig

    folder = Path(target)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"model folder '{name}' has no config.json: give a folder saved by transformers")
    try:
        return AutoConfig.from_pretrained(target, trust_remote_code=False).to_dict() | {
            "_cached": try_to_load_from_cache(target, "config.json") if not folder.is_dir() else None
        }
    except (OSError, ValueError) as error:
        if folder.is_dir():
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model folder '{name}': config.json cannot be read ({reason})") from error
        raise UserError(
            f"model '{name}' is not in the cache and the hub cannot be reached or does not have it: "
            "give a local folder, or use the built-in 'toy'"
        ) from error


def _revision(target: str, config: dict[str, Any]) -> str | None:
    """Commit of a hub model; for a folder, the digest of its weights."""
    folder = Path(target)
    if not folder.is_dir():
        cached = config.get("_cached")
        return Path(cached).parent.name if isinstance(cached, str) else None
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA (this process's own card) or MPS where there is one, otherwise the CPU.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        if torch.cuda.is_available():
            name = f"cuda:{os.environ.get('LOCAL_RANK', torch.cuda.current_device())}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' is not there: give auto, cpu, or one that torch lists") from error
    return device
