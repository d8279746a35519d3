"""Train a built-in backbone from nothing: rendered pictures, captions, CLIP's contrastive loss.

A size may have a teacher, another built-in backbone whose features it learns to give as well: a deep narrow
model gets there in far fewer steps. ``vlprompt toy pretrain`` runs this. Everything follows from one seed.
The pictures are those of :func:`vlprompt.toy.pictures.picture`; no image of a task, and no real digit, is
ever shown.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerFast

from vlprompt.errors import UserError
from vlprompt.files import whole_folder
from vlprompt.progress import bar, track
from vlprompt.toy.drawing import SIDE
from vlprompt.toy.model import BUILT_IN, MEAN, PATCH, SIZES, STD, make_config, make_tokenizer, write
from vlprompt.toy.pictures import render
from vlprompt.typed import Seed, checked


class Examples(NamedTuple):
    """Pictures (N, 3, S, S) uint8, the number of each one's caption (N,), ids of captions (U, T), padded."""

    images: Tensor
    captions: Tensor
    ids: Tensor


class Features(NamedTuple):
    """L2-normalised features of pictures (N, E) and of captions (U, E)."""

    images: Tensor
    captions: Tensor


def pretrain(
    out: Path,
    size: str = "toy",
    seed: int = 0,
    pictures: int = 108_000,
    epochs: int | None = None,
    batch_size: int = 128,
    lr: float = 1.5e-3,
    device: str = "auto",
    show: bool = True,
    force: bool = False,
) -> float:
    """Train a backbone and write it as a folder of ``transformers``.

    Args:
        out: folder, appears whole or not at all. size: a name in :data:`vlprompt.toy.model.SIZES`.
        seed: seed of pictures, weights and order. force: replace ``out`` whoever made it.
        pictures: number of rendered pictures. epochs: passes over them, by default the size's own.

    Returns:
        Mean loss of the last epoch.

    Raises:
        UserError: no such size, or ``out`` cannot be written or holds something else.
    """
    if size not in SIZES:
        raise UserError(f"unknown size '{size}': there are {', '.join(SIZES)}")
    checked(seed, Seed, "seed")
    chosen, start = SIZES[size], time.perf_counter()
    epochs = epochs or chosen.epochs
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    with whole_folder(out, "backbone", force=force) as beside:
        images, captions = render(seed, pictures, show)
        tokenizer = make_tokenizer(captions)
        torch.manual_seed(seed)
        model = CLIPModel(make_config(chosen, tokenizer)).to(device).train()
        examples = Examples(images, *_unique_captions(captions, tokenizer))
        teacher = _features(chosen.teacher, examples, device, show) if chosen.teacher else None
        bfloat16 = chosen.precision == "bfloat16"
        loss = _train(model, examples, teacher, epochs, batch_size, lr, seed, bfloat16, show)
        minutes = (time.perf_counter() - start) / 60
        write(beside, model, tokenizer, card(size, seed, pictures, epochs, minutes, model))
    return loss


@torch.no_grad()
def _features(name: str, examples: Examples, device: str, show: bool) -> Features:
    """What a built-in backbone says of all pictures and captions."""
    teacher = CLIPModel.from_pretrained(BUILT_IN[name], dtype=torch.float32).to(device).eval()
    pixels = (_pixels(part).to(device) for part in examples.images.split(500))
    images = [
        teacher.get_image_features(pixel_values=part).pooler_output.cpu()
        for part in track(pixels, "teacher", len(examples.images) // 500, show)
    ]
    captions = [
        teacher.get_text_features(input_ids=part.to(device)).pooler_output.cpu()
        for part in examples.ids.split(500)
    ]
    return Features(F.normalize(torch.cat(images), dim=-1), F.normalize(torch.cat(captions), dim=-1))


def _train(
    model: CLIPModel,
    examples: Examples,
    teacher: Features | None,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    bfloat16: bool,
    show: bool,
) -> float:
    """Train a model in place; mean loss of the last epoch."""
    model.set_attn_implementation("eager")  # the fastest at these sizes
    order, start = torch.Generator().manual_seed(seed), time.perf_counter()
    count = len(examples.images)
    in_epoch = count // batch_size
    steps = epochs * in_epoch
    optimizer = make_optimizer(model, lr)
    losses: list[float] = []
    with bar("pretrain", steps, show) as progress:
        for step in range(steps):
            if step % in_epoch == 0:
                batches = torch.randperm(count, generator=order).split(batch_size)
                losses = []
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, steps, lr)
            batch = batches[step % in_epoch]
            losses.append(_step(model, optimizer, examples, teacher, batch, bfloat16))
            note = f"loss {np.mean(losses[-50:]):.3f}"
            progress.update(progress.task_ids[0], advance=1, note=note)
            if show and step % 200 == 0:
                print(f"step {step}/{steps} {note} {time.perf_counter() - start:.0f} s", flush=True)
    return float(np.mean(losses))


def make_optimizer(model: CLIPModel, lr: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices alone."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr, betas=(0.9, 0.98))


def rate_at(step: int, steps: int, lr: float) -> float:
    """A twentieth of the steps up to ``lr``, then half a cosine down to its hundredth."""
    ramp, decay = (step + 1) / max(steps // 20, 1), 0.5 * (1 + math.cos(math.pi * step / steps))
    return lr * min(ramp, max(decay, 0.01))


def _step(
    model: CLIPModel,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    teacher: Features | None,
    batch: Tensor,
    bfloat16: bool,
) -> float:
    """One step on the pictures with numbers ``batch`` (B,); its loss."""
    device, captions = model.device, examples.captions[batch]
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        pixels = _pixels(examples.images[batch]).to(device)
        image, text = model_features(model, pixels, examples.ids[captions].to(device))
    loss = contrastive_loss(model.logit_scale.exp() * image @ text.T, captions.to(device))
    if teacher is not None:
        loss = loss + feature_loss(image, teacher.images[batch].to(device))
        loss = loss + feature_loss(text, teacher.captions[captions].to(device))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    return float(loss.detach())


def model_features(model: CLIPModel, pixels: Tensor, ids: Tensor) -> Features:
    """L2-normalised features of pixels (B, 3, S, S) and of padded ids (B, T): twice (B, E)."""
    image = model.get_image_features(pixel_values=pixels).pooler_output.float()
    text = model.get_text_features(input_ids=ids).pooler_output.float()
    return Features(F.normalize(image, dim=-1), F.normalize(text, dim=-1))


def contrastive_loss(logits: Tensor, captions: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3), where equal captions in a batch are all positives.

    Args:
        logits: (B, B) of pictures by captions. captions: (B,) number of each one's caption.
    """
    same = (captions[:, None] == captions[None]).to(logits)
    target = same / same.sum(-1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def feature_loss(features: Tensor, teacher: Tensor, weight: float = 10.0) -> Tensor:
    """Distance of L2-normalised features (B, E) to a teacher's, as in CLIP-KD (arXiv 2307.12732)."""
    return weight * (1 - (features * teacher).sum(-1)).mean()


def _unique_captions(captions: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Number of each picture's caption (N,), and the padded ids of every distinct caption (U, T)."""
    unique = sorted(set(captions))
    number = {caption: i for i, caption in enumerate(unique)}
    ids = tokenizer(unique, padding=True, return_tensors="pt")["input_ids"]
    return torch.tensor([number[c] for c in captions]), ids


def _pixels(images: Tensor) -> Tensor:
    """uint8 pictures (B, 3, S, S) as the image processor prepares them."""
    return (images.float() / 255 - MEAN[0]) / STD[0]


def card(name: str, seed: int, pictures: int, epochs: int, minutes: float, model: CLIPModel) -> str:
    """The model card."""
    size, millions = SIZES[name], sum(p.numel() for p in model.parameters()) / 1e6
    cuda = model.device.type == "cuda"
    learned = f", and to give the features of `{size.teacher}`," if size.teacher else ""
    where = torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores"
    return f"""---
library_name: transformers
license: mit
tags: [clip, toy]
---

# {name}: a small CLIP for trying and testing vlprompt

A `CLIPModel` of {millions:.1f} million parameters: {SIDE} pixel pictures, patches of {PATCH}, {size.layers}
layers a branch, {size.text_width} wide for text and {size.vision_width} for images, with a small tokenizer
of its own. It was trained from nothing with CLIP's contrastive loss{learned} in {size.precision}, on
{pictures:,} rendered pictures and captions, {epochs} epochs, {minutes:.0f} minutes on {where}:

    vlprompt toy pretrain --size {name} --seed {seed}

The pictures show shapes, colours, textures, counts, directions, positions, letters and digits in many
fonts and as if by hand. It never saw a real photograph, a real handwritten digit, or a picture of a
built-in task.

It is for trying the tool and for testing it. Numbers obtained with it say nothing about CLIP.
"""
