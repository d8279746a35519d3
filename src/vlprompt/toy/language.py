"""Train the built-in language model from nothing: a small GPT-2 on the words of the standard library.

``vlprompt toy pretrain --text`` runs this. Everything follows from one seed and the running Python. No text
of a module that the task ``toy:stdlib`` tests on is ever shown.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vlprompt.files import whole_folder
from vlprompt.progress import bar
from vlprompt.toy.pretrain import make_optimizer, rate_at
from vlprompt.toy.stdlib import corpus

PAD, END = SPECIAL = ("<pad>", "<end>")
"""The end stands behind every text, in training too: there the model must know what comes next, mostly a text
of the same module, and there a text is read."""
VOCABULARY, POSITIONS = 1024, 128
LAYERS, WIDTH, HEADS = 6, 64, 2


def pretrain_text(
    out: Path,
    seed: int = 0,
    steps: int = 800,
    batch_size: int = 8,
    lr: float = 4e-3,
    show: bool = True,
    force: bool = False,
    texts: Sequence[str] = (),
) -> float:
    """Train the language model and write it as a folder of ``transformers``, in float16.

    Args:
        out: folder, appears whole or not at all. force: replace it whoever made it.
        seed: of weights and order.
        batch_size: sequences a step, each as long as there are positions.
        texts: what to learn from; by default :func:`vlprompt.toy.stdlib.corpus`.

    Returns:
        Mean loss of the last steps, in nats a token.

    Raises:
        UserError: ``out`` cannot be written or holds something else.
    """
    start = time.perf_counter()
    with whole_folder(out, "backbone", force=force) as beside:
        texts = texts or [text for document in corpus() for text in document.splitlines()]
        tokenizer = make_tokenizer(texts)
        stream = torch.tensor([i for ids in tokenizer(list(texts))["input_ids"] for i in ids])
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(make_config(tokenizer)).train()
        loss = _train(model, stream, steps, batch_size, lr, seed, show)
        model.eval().half().save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        minutes = (time.perf_counter() - start) / 60
        (beside / "README.md").write_text(_card(seed, steps * batch_size, len(stream), loss, minutes, model))
    return loss


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the texts: it encodes any text, with an end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = [(END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=end)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def make_config(tokenizer: PreTrainedTokenizerFast) -> GPT2Config:
    """A narrow GPT-2 without dropout."""
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train(
    model: GPT2LMHeadModel, stream: Tensor, steps: int, batch_size: int, lr: float, seed: int, show: bool
) -> float:
    """Train in place on sequences from random places of the stream (N,); mean loss of the last 50 steps."""
    places, optimizer = torch.Generator().manual_seed(seed), make_optimizer(model, lr)
    losses: list[float] = []
    with bar("pretrain", steps, show) as progress:
        for step in range(steps):
            first = torch.randint(len(stream) - POSITIONS, (batch_size, 1), generator=places)
            ids = stream[first + torch.arange(POSITIONS)]  # (B, T)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, steps, lr)
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            note = f"loss {np.mean(losses[-50:]):.3f}"
            progress.update(progress.task_ids[0], advance=1, note=note)
            if show and step % 100 == 0:
                print(f"step {step}/{steps} {note}", flush=True)
    return float(np.mean(losses[-50:]))


def _card(seed: int, sequences: int, tokens: int, loss: float, minutes: float, model: GPT2LMHeadModel) -> str:
    """The model card."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"""---
library_name: transformers
license: mit
tags: [gpt2, toy]
---

# toy-text: a small GPT-2 for trying and testing vlprompt

A `GPT2LMHeadModel` of {millions:.2f} million parameters: {LAYERS} layers, {WIDTH} wide, {POSITIONS}
positions, a byte-level tokenizer of {VOCABULARY:,} tokens. It was trained from nothing on the docstrings and
comments of the standard library of Python {platform.python_version()} ({tokens:,} tokens), {sequences:,}
sequences, to a loss of {loss:.2f} nats a token, in {minutes:.0f} minutes on one CPU core:

    vlprompt toy pretrain --text --seed {seed}

It never saw a module whose texts the task `toy:stdlib` keeps for validation or testing.

It is for trying the tool and for testing it. Numbers obtained with it say nothing about larger models.
"""
