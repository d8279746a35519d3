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
from transformers import CLIPModel, SiglipModel

from vlprompt.engine.prompt import Beside

Candidates = tuple[Sequence[Tensor | None], Tensor]
"""Prompts of one layer's candidates, ``None`` for no prompt, and their weights."""


def attention(
    attn, x: Tensor, prompt: Tensor | None, mask: Tensor | None, beside: Beside | None = None
) -> Tensor:
    """Multi-head attention of (R, T, D) with extra keys and values from ``prompt`` (c, D), normed."""
    rows = len(x)
    source = x if prompt is None or not len(prompt) else torch.cat([prompt.expand(rows, -1, -1), x], 1)
    q, k, v = attn.q_proj(x), attn.k_proj(source), attn.v_proj(source)
    if beside is not None:
        maps = (beside.query, x), (beside.key, source), (beside.value, source)
        q, k, v = (p if f is None else p + f(y) for p, (f, y) in zip((q, k, v), maps, strict=True))
    q, k, v = (t.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.mT * attn.scale
    if mask is not None:
        seen = torch.zeros(len(mask), source.shape[1] - len(mask), dtype=mask.dtype, device=mask.device)
        scores = scores + torch.cat([seen, mask], 1)
    out = scores.softmax(-1) @ v
    return attn.out_proj(out.transpose(1, 2).flatten(2))


def layer(
    block, x: Tensor, candidates: Candidates | None, mask: Tensor | None, beside: Beside | None = None
) -> Tensor:
    """One transformer layer whose attention is a weighted sum over candidates, with maps beside it."""
    normed = block.layer_norm1(x)
    prompts, weights = candidates or ((None,), None)
    total = None
    for index, prompt in enumerate(prompts):
        tokens = None if prompt is None else block.layer_norm1(prompt)
        out = attention(block.self_attn, normed, tokens, mask, beside)
        out = out if weights is None else weights[index] * out
        total = out if total is None else total + out
    x = x + total
    x = x + block.mlp(block.layer_norm2(x))
    return x if beside is None or beside.block is None else x + beside.block(normed)


def run(
    blocks,
    x: Tensor,
    deep: Sequence[Tensor | None],
    start: int,
    candidates: Sequence[Candidates] | None,
    mask: Tensor | None,
    beside: Sequence[Beside | None] = (),
    standing: int | None = None,
) -> Tensor:
    """All layers; ``deep[i]`` replaces tokens from ``start`` on at the input of layer i + 1.

    As many as it has; the first one ``standing`` tokens, where this is given.
    """
    for index, block in enumerate(blocks):
        tokens = deep[index - 1] if 0 < index <= len(deep) else None
        if tokens is not None:
            tokens = tokens.expand(len(x), -1, -1)  # of each row's own where they are (R, n, D)
            end = start + (tokens.shape[1] if standing is None else standing)
            x, standing = torch.cat([x[:, :start], tokens, x[:, end:]], 1), None
        length, own = x.shape[1], beside[index] if index < len(beside) else None
        seen = None if mask is None else mask[:length, :length]
        x = layer(block, x, candidates[index] if candidates else None, seen, own)
    return x


def text_features(
    model: CLIPModel,
    ids: Tensor,
    context: Tensor | None = None,
    deep: Sequence[Tensor | None] = (),
    candidates: Sequence[Candidates] | None = None,
    beside: Sequence[Beside | None] = (),
) -> Tensor:
    """Class features (K, E) of padded token ids (K, 77); context (n, D) or (K, n, D) at positions 1..n."""
    text, standing = model.text_model, 0
    x = text.embeddings.token_embedding(ids)
    if context is not None:
        context = context if context.ndim == 3 else context.expand(len(ids), -1, -1)
        standing = context.shape[1]
        x = torch.cat([x[:, :1], context.to(x.dtype), x[:, 1 + context.shape[1] :]], 1)
    x = x + text.embeddings.position_embedding.weight[: ids.shape[1]]
    longest = ids.shape[1] + sum(t.shape[-2] for t in deep if t is not None)
    mask = torch.full((longest, longest), -torch.inf, dtype=x.dtype, device=x.device).triu(1)
    x = run(text.encoder.layers, x, deep, 1, candidates, mask, beside, standing)
    x = text.final_layer_norm(x)
    ends = (ids == text.config.eos_token_id).int().argmax(-1) + x.shape[1] - ids.shape[1]
    return F.normalize(model.text_projection(x[torch.arange(len(ids)), ends]), dim=-1)


def siglip_text_features(
    model: SiglipModel,
    ids: Tensor,
    context: Tensor | None = None,
    deep: Sequence[Tensor] = (),
    candidates: Sequence[Candidates] | None = None,
) -> Tensor:
    """Class features (K, E) of padded token ids (K, T), all of which see all; context (n, D) stands first."""
    text = model.text_model
    x = text.embeddings.token_embedding(ids)
    if context is not None:
        x = torch.cat([context.to(x.dtype).expand(len(ids), -1, -1), x[:, context.shape[-2] :]], 1)
    x = x + text.embeddings.position_embedding.weight
    x = text.final_layer_norm(run(text.encoder.layers, x, deep, 0, candidates, None))
    return F.normalize(text.head(x[:, -1]), dim=-1)


def image_features(
    model: CLIPModel,
    pixels: Tensor,
    context: Tensor | None = None,
    deep: Sequence[Tensor | None] = (),
    candidates: Sequence[Candidates] | None = None,
    beside: Sequence[Beside | None] = (),
) -> Tensor:
    """Image features (B, E); context (n, D) stands after the patch tokens."""
    vision = model.vision_model
    x = vision.embeddings(pixels)
    start, standing = x.shape[1], 0 if context is None else len(context)
    if context is not None:
        x = torch.cat([x, context.to(x.dtype).expand(len(x), -1, -1)], 1)
    blocks, x = vision.encoder.layers, vision.pre_layrnorm(x)
    x = run(blocks, x, deep, start, candidates, None, beside, standing)
    return F.normalize(model.visual_projection(vision.post_layernorm(x[:, 0])), dim=-1)
