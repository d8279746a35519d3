"""Pictures and captions that a built-in backbone is trained on, by seed and number."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlprompt.progress import bar
from vlprompt.toy.drawing import Style, draw
from vlprompt.toy.scenes import caption, random_scene


def picture(seed: int, index: int) -> tuple[Image.Image, str]:
    """Picture and caption number ``index`` of the world with a seed, as the backbone is trained on."""
    rng = np.random.default_rng([seed, index])
    scene = random_scene(rng)
    style = Style(noise=0.3, blur=0.3, tilt=0.5, hue=0.15, clutter=0.3)
    if scene.written and rng.random() < 0.7:  # light on dark, as scans often are
        scene, style = replace(scene, colour="white", ground="black"), replace(style, hue=0.02, clutter=0.0)
    drawn = draw(scene, rng, style)
    if rng.random() < 0.15:
        drawn = drawn.convert("L").convert("RGB")
        scene = scene if scene.colour in ("black", "white") else replace(scene, colour="gray")
    return drawn, caption(scene, rng)


def render(seed: int, count: int, show: bool) -> tuple[Tensor, list[str]]:
    """Pictures (count, 3, SIDE, SIDE) uint8 and their captions, drawn in parallel, the same in any number."""
    chunks = [range(i, min(i + 500, count)) for i in range(0, count, 500)]
    images, captions = [], []
    workers = min(os.cpu_count() or 1, len(chunks))
    pooled = multiprocessing.get_context("spawn").Pool(workers) if workers > 1 else nullcontext()
    with bar("render", count, show) as progress, pooled as pool:
        for pixels, words in (pool.imap if pool else map)(partial(_render_chunk, seed), chunks):
            images.append(torch.from_numpy(pixels))
            captions += words
            progress.advance(progress.task_ids[0], len(words))
    return torch.cat(images), captions


def _render_chunk(seed: int, indices: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    drawn = [picture(seed, i) for i in indices]
    return np.stack([np.asarray(p).transpose(2, 0, 1) for p, _ in drawn]), [words for _, words in drawn]
