"""What is frozen, computed once: a second method on the same images beside the first, and the memory of many.

    python benchmarks/frozen.py [--images 2000] [--first tip] [--second linear]
    python benchmarks/frozen.py --memory [--images 16000]

The first: ``fit`` and evaluation of two methods on noise of 224 pixels in ten classes, half of it for
training, with a CLIP ViT-B/16 of random weights, an empty cache, and each method in a process of its own;
then the second method again, without a cache: its probabilities must be equal to the bit.

The second: peak memory of one epoch of CoOp with fresh crops of many JPEG files of 224 pixels in a thousand
classes, with a small backbone, above that of a process that has only loaded it. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import peak_resident_bytes
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlprompt import PromptClassifier
from vlprompt.dataset import Dataset, Item
from vlprompt.engine.backbones.load import BUILT_IN

SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
"""A backbone that takes little time and memory, whatever the images take."""


def write_backbone(folder: Path, small: bool) -> None:
    """A CLIP of random weights that reads 224 pixels, with the tokenizer of ``toy``."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUILT_IN["toy"])
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    size = SMALL if small else {}
    vision = {"patch_size": 32 if small else 16, **size}
    CLIPModel(CLIPConfig(text_config=ids | size, vision_config=vision)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


def write_images(folder: Path, count: int) -> None:
    """JPEG files of noise, each another."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((224, 224)).save(folder / f"{index}.jpg")


def dataset(folder: Path, classes: int, test: bool) -> Dataset:
    """The files in turn of one class after the other."""
    files = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    items = [Item(path, index % classes) for index, path in enumerate(files)]
    half = len(items) // 2 if test else len(items)
    names = tuple(f"kind {k}" for k in range(classes))
    return Dataset("noise", names, items[:half], test=items[half:])


def child(root: Path, method: str) -> dict[str, Any]:
    """Fit and evaluate one method; its seconds, and its probabilities' digits."""
    images = dataset(root / "images", 10, test=True)
    settings = {"epochs": 5} if method not in ("tip", "linear", "zeroshot") else {}
    start, busy = time.perf_counter(), time.process_time()
    classifier = PromptClassifier(method, str(root / "clip"), settings, augment="none", device="cpu")
    classifier.fit_dataset(images)
    probabilities = classifier.predict_proba([item.image for item in images.test])
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {"seconds": seconds, "processor_s": busy, "bits": probabilities.tobytes().hex()}


def memory_child(root: Path) -> dict[str, Any]:
    """Peak memory of an epoch, in GB, and what a process with the backbone had before it."""
    images = dataset(root / "images", 1000, test=False)
    settings = {"epochs": 1, "n_ctx": 4, "batch_size": 256}
    classifier = PromptClassifier("coop", str(root / "clip"), settings, augment="crop+flip", device="cpu")
    first = [Item(item.image, index % 2) for index, item in enumerate(images.train[:4])]
    classifier.fit_dataset(Dataset("few", images.classnames[:2], first))
    before = peak_resident_bytes()
    classifier.fit_dataset(images)
    return {"before_gb": before / 1e9, "peak_gb": peak_resident_bytes() / 1e9}


def run(root: Path, what: str, cache: str) -> dict[str, Any]:
    """A child's answer, with a cache or ``off``."""
    done = subprocess.run(
        [sys.executable, __file__, "--root", str(root), "--child", what],
        env=os.environ | {"VLPROMPT_CACHE": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Make the images and the backbone, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int)
    parser.add_argument("--first", default="tip")
    parser.add_argument("--second", default="linear")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        memory = given.child == "memory"
        print(json.dumps(memory_child(given.root) if memory else child(given.root, given.child)))
        return
    count = given.images or (16_000 if given.memory else 2_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_backbone(root / "clip", small=given.memory)
        write_images(root / "images", count)
        if given.memory:
            print(json.dumps({"images": count, **run(root, "memory", "off")}))
            return
        cache = str(root / "cache")
        first, second = (run(root, method, cache) for method in (given.first, given.second))
        alone = run(root, given.second, "off")
    result = {
        "images": count,
        f"{given.first}_s": first["seconds"],
        f"then_{given.second}_s": second["seconds"],
        f"{given.second}_without_cache_s": alone["seconds"],
        "ratio": first["seconds"] / second["seconds"],
        "processor_ratio": first["processor_s"] / second["processor_s"],
        "equal_to_the_bit": second["bits"] == alone["bits"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
