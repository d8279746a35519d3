"""What the tests of training, artifacts and the command share: small images, a random CLIP, the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlprompt.cli import main as cli
from vlprompt.engine.backbones.clip import CLIPBackbone
from vlprompt.engine.backbones.load import BUILT_IN, load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.training.imageset import ImageSet

CLASSES = {"blue_square": (40, 60, 220), "green": (30, 160, 40), "red thing": (220, 30, 30)}
NAMES = ("blue square", "green", "red thing")


def write_photos(folder: Path, each: int = 7) -> Path:
    """Noisy pictures of three colours, one folder a class."""
    rng = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = np.array(colour) + rng.normal(0, 60, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def photos_and_labels(folder: Path) -> tuple[list[Path], list[str]]:
    """Paths and class names of the pictures of ``write_photos``."""
    paths = sorted(folder.rglob("*.png"))
    return paths, [p.parent.name.replace("_", " ") for p in paths]


def agree(ours: torch.Tensor, theirs: torch.Tensor, parameters: list[torch.Tensor]) -> None:
    """Features in float64, and their gradients of all parameters, none of which may be zero."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    upstream = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(9))
    a = torch.autograd.grad((ours * upstream).sum(), parameters, retain_graph=True)
    b = torch.autograd.grad((theirs * upstream).sum(), parameters)
    for x, y in zip(a, b, strict=True):
        assert x.abs().max() > 0
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def random_clip(width: int = 32) -> CLIPModel:
    """A small CLIP with random weights that reads the toy tokenizer's ids and 32 pixel pictures."""
    torch.manual_seed(4)
    tokenizer = AutoTokenizer.from_pretrained(BUILT_IN["toy"])
    shared = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shared,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**shared, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    return CLIPModel(config).eval()


def write_clip(folder: Path, safe: bool = True) -> Path:
    """A folder as ``transformers`` writes it: weights, tokenizer, image processor."""
    model = random_clip()
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    AutoTokenizer.from_pretrained(BUILT_IN["toy"]).save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size=32).save_pretrained(folder)
    return folder


def random_encoder(dtype: torch.dtype = torch.float64) -> Encoder:
    """An encoder of the random CLIP, with the toy tokenizer."""
    return Encoder(CLIPBackbone(random_clip().to(dtype), AutoTokenizer.from_pretrained(BUILT_IN["toy"])))


def toy_encoder(dtype: torch.dtype = torch.float32) -> Encoder:
    """An encoder of the toy backbone."""
    return Encoder(load_backbone("toy", dtype=dtype))


def random_split(count: int = 9, seed: int = 0) -> ImageSet:
    """Random pixels of three classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, 32, 32, generator=generator)
    return ImageSet(lambda positions: pixels[positions], torch.arange(count) % len(NAMES))


def learned(classifier: PromptClassifier) -> dict[str, torch.Tensor]:
    """What a classifier learned."""
    return {name: p.detach() for name, p in classifier.method_.named_parameters()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal names and equal values."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def vlprompt(*words: object) -> int:
    """The command in this process; its exit code."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)


def start(*words: object) -> subprocess.Popen[str]:
    """The command in a process of its own, with as many threads as this one.

    It heeds Ctrl-C even where these tests run in the background of a shell, which has it ignored.
    """
    threads = str(torch.get_num_threads())
    return subprocess.Popen(
        [sys.executable, "-m", "vlprompt", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
