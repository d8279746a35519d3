"""The plain way: what the incumbents compute, written plainly on the modules of a stock CLIP.

Every class runs over all 77 positions, every candidate of DPL's supernet is an attention of its own
with its own projections. The benchmark measures against it, and the tests prove that the engine
computes the same numbers. Shapes: K classes, B images, D width, c prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

Candidates = tuple[Sequence[Tensor | None], Tensor]
"""Prompts of one layer's candidates, ``None`` for no prompt, and their weights."""


def attention(attn, x: Tensor, prompt: Tensor | None, mask: Tensor | None) -> Tensor:
    """Multi-head attention of (R, T, D) with extra keys and values from ``prompt`` (c, D), normed."""
    rows = len(x)
    source = x if prompt is None or not len(prompt) else torch.cat([prompt.expand(rows, -1, -1), x], 1)
    q, k, v = attn.q_proj(x), attn.k_proj(source), attn.v_proj(source)
    q, k, v = (t.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.mT * attn.scale
    if mask is not None:
        seen = torch.zeros(len(mask), source.shape[1] - len(mask), dtype=mask.dtype, device=mask.device)
        scores = scores + torch.cat([seen, mask], 1)
    out = scores.softmax(-1) @ v
    return attn.out_proj(out.transpose(1, 2).flatten(2))


def layer(block, x: Tensor, candidates: Candidates | None, mask: Tensor | None) -> Tensor:
    """One transformer layer whose attention is a weighted sum over candidates."""
    normed = block.layer_norm1(x)
    prompts, weights = candidates or ((None,), None)
    total = None
    for index, prompt in enumerate(prompts):
        tokens = None if prompt is None else block.layer_norm1(prompt)
        out = attention(block.self_attn, normed, tokens, mask)
        out = out if weights is None else weights[index] * out
        total = out if total is None else total + out
    x = x + total
    return x + block.mlp(block.layer_norm2(x))


def run(blocks, x: Tensor, deep: Sequence[Tensor], start: int, candidates, mask) -> Tensor:
    """All layers; ``deep[i]`` replaces tokens from ``start`` on at the input of layer i + 1."""
    for index, block in enumerate(blocks):
        if 0 < index <= len(deep):
            tokens = deep[index - 1].expand(len(x), -1, -1)
            x = torch.cat([x[:, :start], tokens, x[:, start + tokens.shape[1] :]], 1)
        x = layer(block, x, candidates[index] if candidates else None, mask)
    return x


def text_features(
    model: CLIPModel,
    ids: Tensor,
    context: Tensor | None = None,
    deep: Sequence[Tensor] = (),
    candidates: Sequence[Candidates] | None = None,
) -> Tensor:
    """Class features (K, E) of padded token ids (K, 77); context (n, D) or (K, n, D) at positions 1..n."""
    text = model.text_model
    x = text.embeddings.token_embedding(ids)
    if context is not None:
        context = context if context.ndim == 3 else context.expand(len(ids), -1, -1)
        x = torch.cat([x[:, :1], context.to(x.dtype), x[:, 1 + context.shape[1] :]], 1)
    x = x + text.embeddings.position_embedding.weight[: ids.shape[1]]
    mask = torch.full((ids.shape[1],) * 2, -torch.inf, dtype=x.dtype, device=x.device).triu(1)
    x = text.final_layer_norm(run(text.encoder.layers, x, deep, 1, candidates, mask))
    ends = (ids == text.config.eos_token_id).int().argmax(-1)
    return F.normalize(model.text_projection(x[torch.arange(len(ids)), ends]), dim=-1)


def image_features(
    model: CLIPModel,
    pixels: Tensor,
    context: Tensor | None = None,
    deep: Sequence[Tensor] = (),
    candidates: Sequence[Candidates] | None = None,
) -> Tensor:
    """Image features (B, E); context (n, D) stands after the patch tokens."""
    vision = model.vision_model
    x = vision.embeddings(pixels)
    start = x.shape[1]
    if context is not None:
        x = torch.cat([x, context.to(x.dtype).expand(len(x), -1, -1)], 1)
    x = run(vision.encoder.layers, vision.pre_layrnorm(x), deep, start, candidates, None)
    return F.normalize(model.visual_projection(vision.post_layernorm(x[:, 0])), dim=-1)
