"""Train the built-in backbone from nothing: rendered pictures, captions, CLIP's contrastive loss.

``vlprompt toy pretrain`` runs this. Everything follows from one seed. The pictures are those of
:func:`vlprompt.toy.pictures.picture`; no image of a task, and no real digit, is ever shown.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from vlprompt.progress import bar
from vlprompt.toy.drawing import SIDE
from vlprompt.toy.pictures import render

PAD, UNUSED, START, END = SPECIAL = ("<pad>", "<unused>", "<start>", "<end>")
POSITIONS = 77
VOCABULARY = 640
MEAN = STD = (0.5, 0.5, 0.5)


def pretrain(
    out: Path,
    seed: int = 0,
    pictures: int = 108_000,
    epochs: int = 3,
    batch_size: int = 128,
    lr: float = 1.5e-3,
    device: str = "auto",
    show: bool = True,
) -> float:
    """Train the backbone and write it as a folder of ``transformers``.

    Args:
        out: folder, appears whole or not at all.
        seed: seed of pictures, weights and order.
        pictures: number of rendered pictures. epochs: passes over them.

    Returns:
        Mean loss of the last epoch.
    """
    start = time.perf_counter()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    images, captions = render(seed, pictures, show)
    tokenizer = make_tokenizer(captions)
    torch.manual_seed(seed)
    model = CLIPModel(make_config(len(tokenizer), tokenizer)).to(device).train()
    model.set_attn_implementation("eager")  # the fastest at this size
    captions_at, ids = _unique_captions(captions, tokenizer)
    order = torch.Generator().manual_seed(seed)
    steps = epochs * (pictures // batch_size)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr, betas=(0.9, 0.98))
    warmup = max(steps // 20, 1)
    last: list[float] = []
    with bar("pretrain", steps, show) as progress:
        for step in range(steps):
            if step % (pictures // batch_size) == 0:
                batches = torch.randperm(pictures, generator=order).split(batch_size)
                last = []
            for group in optimizer.param_groups:
                ramp, decay = (step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps))
                group["lr"] = lr * min(ramp, max(decay, 0.01))
            chosen = batches[step % (pictures // batch_size)]
            texts = captions_at[chosen]
            with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):  # few CPUs have it
                pixels = _pixels(images[chosen]).to(device)
                loss = contrastive_loss(model, pixels, ids[texts].to(device), texts.to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            last.append(float(loss.detach()))
            note = f"loss {np.mean(last[-50:]):.3f}"
            progress.update(progress.task_ids[0], advance=1, note=note)
            if show and step % 200 == 0:
                print(f"step {step}/{steps} {note} {time.perf_counter() - start:.0f} s", flush=True)
    minutes = (time.perf_counter() - start) / 60
    write(out, model, tokenizer, card(seed, pictures, epochs, minutes, model))
    return float(np.mean(last))


def make_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the captions: it encodes any text, with start and end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(captions)), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=POSITIONS,
    )


def make_config(vocabulary: int, tokenizer: PreTrainedTokenizerFast) -> CLIPConfig:
    """A CLIP of four layers a branch, about 2.2 million parameters."""
    return CLIPConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 128,
            "hidden_act": "gelu",
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": POSITIONS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 160,
            "hidden_act": "gelu",
            "intermediate_size": 640,
            "num_hidden_layers": 4,
            "num_attention_heads": 5,
            "image_size": SIDE,
            "patch_size": 4,
        },
        projection_dim=96,
    )


def contrastive_loss(model: CLIPModel, pixels: Tensor, ids: Tensor, captions: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3), where equal captions in a batch are all positives.

    Args:
        pixels: (B, 3, S, S). ids: (B, T), padded. captions: (B,) number of each one's caption.
    """
    image = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)  # (B, E)
    text = F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)  # (B, E)
    logits = model.logit_scale.exp() * image.float() @ text.float().T  # (B, B)
    same = (captions[:, None] == captions[None]).to(logits)
    target = same / same.sum(-1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _unique_captions(captions: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Number of each picture's caption (N,), and the padded ids of every distinct caption (U, T)."""
    unique = sorted(set(captions))
    number = {caption: i for i, caption in enumerate(unique)}
    ids = tokenizer(unique, padding=True, return_tensors="pt")["input_ids"]
    return torch.tensor([number[c] for c in captions]), ids


def _pixels(images: Tensor) -> Tensor:
    """uint8 pictures (B, 3, S, S) as the image processor prepares them."""
    return (images.float() / 255 - MEAN[0]) / STD[0]


def write(out: Path, model: CLIPModel, tokenizer: PreTrainedTokenizerFast, readme: str) -> None:
    """Write the folder beside and rename it."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    beside = out.with_name(out.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    model.cpu().eval().half().save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=SIDE, image_mean=MEAN, image_std=STD
    ).save_pretrained(beside)
    (beside / "README.md").write_text(readme)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(beside, out)


def card(seed: int, pictures: int, epochs: int, minutes: float, model: CLIPModel) -> str:
    """The model card."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"""---
library_name: transformers
license: mit
tags: [clip, toy]
---

# toy: a small CLIP for trying and testing vlprompt

A `CLIPModel` of {millions:.1f} million parameters ({SIDE} pixel pictures, patches of 4, four layers a
branch), with a small tokenizer of its own. It was trained from nothing with CLIP's contrastive loss on
{pictures:,} rendered pictures and captions, {epochs} epochs, {minutes:.0f} minutes on two CPU cores:

    vlprompt toy pretrain --seed {seed}

The pictures show shapes, colours, textures, counts, directions, positions, letters and digits in many
fonts and as if by hand. It never saw a real photograph, a real handwritten digit, or a picture of a
built-in task.

It is for trying the tool and for testing it. Numbers obtained with it say nothing about CLIP.
"""
