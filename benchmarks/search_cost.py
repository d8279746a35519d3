"""What a search by gates costs: its steps beside those of hand-made lengths, ViT-B/16 of random weights.

    python benchmarks/search_cost.py --classes 100

A searched training has as many steps as any other. A step costs most while all tokens are open; what the
whole training costs is the mean over the schedule by which they close.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np
from bench import classnames, make_encoder, pixels, step, timed

from vlprompt.methods import get_method
from vlprompt.methods.dpl.gates import BEGIN, END


def main() -> None:
    """Print seconds of a step and the ratio of whole trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    encoder, kind = make_encoder(a.device), get_method("dpl")
    batch = pixels(4, a.classes, a.device)
    given = kind.Settings(text_lengths=(2,) * 12, vision_lengths=(2,) * 12)
    methods = [kind(encoder, classnames(a.classes), s) for s in (kind.Settings(), given)]
    steps = [step(method, batch) for method in methods]
    seconds: list[list[float]] = [[], []]
    for _ in range(a.repeats + 1):
        for one, own in zip(steps, seconds, strict=True):
            own.append(timed(one, a.device))
    searching, handmade = (median(own[1:]) for own in seconds)
    shares = np.linspace(0, 1, 1001)
    extra = float((np.clip((END - shares) / (END - BEGIN), 0, 1) ** 3).mean())  # of the tokens to be closed
    whole = handmade + extra * (searching - handmade)
    print(f"K = {a.classes}: a step with all {methods[0].gates.full} tokens open {searching:.2f} s, ", end="")
    print(f"with 48 hand-made ones {handmade:.2f} s")
    print(f"a searched training: {whole / handmade:.2f} times the time, 1.00 times the steps")


if __name__ == "__main__":
    main()
