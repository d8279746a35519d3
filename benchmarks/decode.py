"""What the cache of decoded images saves: the first load against the second, for photos of several sizes.

    python benchmarks/decode.py [--images 48]

The photos are made here (smooth colours with a little noise, JPEG of quality 90) and reduced to twice the
side of CLIP's input, as in training. Both loads find the files in the system's page cache, so the ratio is
that of decoding to reading, not that of two disks. Times are the least of three. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vlprompt.data.images import load_images

SIDE = 448
SIZES = ((500, 375), (1024, 768), (4000, 3000))


def make_photo(path: Path, width: int, height: int, seed: int) -> None:
    """A photo-like JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, dtype=np.int16) + rng.integers(-8, 9, (height, width, 1))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=48, help="photos of each size")
    count = parser.parse_args().images
    print("| photo | first load, ms an image | second load, ms an image | ratio | cache, MB an image |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        os.environ["VLPROMPT_CACHE"] = str(cache)
        for width, height in SIZES:
            photos = [Path(folder) / f"{width}-{k}.jpg" for k in range(count)]
            for seed, path in enumerate(photos):
                make_photo(path, width, height, seed)
            first_loads, second_loads = [], []
            for _ in range(3):
                shutil.rmtree(cache, ignore_errors=True)
                first_loads.append(seconds(lambda photos=photos: load_images(photos, SIDE)))
                second_loads.append(seconds(lambda photos=photos: load_images(photos, SIDE)))
            first, second = (1000 * min(times) / count for times in (first_loads, second_loads))
            size = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) / 1e6 / count
            print(
                f"| {width} x {height} | {first:.2f} | {second:.2f} | {first / second:.1f} | {size:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
