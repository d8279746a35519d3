"""How long a command takes to start, beside the imports that it cannot do without.

    python benchmarks/startup.py [--repeats 7] [--json]

Medians of several runs in turn, each in a process of its own on one thread, with compiled bytecode as after
an installation, in seconds of the processor: what the clock shows where nothing else runs. The floor is
``import torch, transformers``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from vlprompt import PromptClassifier

FLOOR = "import torch, transformers"


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed; needs a classifier and a picture, which are made in ``folder``."""
    picture, classifier = folder / "picture.png", folder / "classifier"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(picture)
    coop = PromptClassifier("coop", settings={"epochs": 1})
    coop.fit(pixels, ["red circle", "blue square"] * 2).save(classifier)
    vlprompt = ["-m", "vlprompt"]
    return {
        FLOOR: ["-c", FLOOR],
        "vlprompt --help": [*vlprompt, "--help"],
        "vlprompt fit --help": [*vlprompt, "fit", "--help"],
        "vlprompt predict": [*vlprompt, "predict", str(classifier), str(picture)],
    }


def seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Processor time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=300
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        timed = commands(Path(name))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        for arguments in timed.values():  # writes what bytecode is missing
            seconds(arguments, environment)
        runs = [{what: seconds(a, environment) for what, a in timed.items()} for _ in range(given.repeats)]
    medians = {what: statistics.median(run[what] for run in runs) for what in timed}
    if given.json:
        print(json.dumps({what: round(median, 3) for what, median in medians.items()}))
        return
    for what, median in medians.items():
        print(f"{what:28} {median:6.2f} s   {median / medians[FLOOR]:5.2f} x the floor")


if __name__ == "__main__":
    main()
