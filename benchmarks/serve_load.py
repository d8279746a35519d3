"""Many clients at once against ``vlprompt serve``, on this machine's loopback.

    python benchmarks/serve_load.py CLASSIFIER [--clients 32] [--seconds 60] [--json]

Starts a server of its own on a free port of 127.0.0.1. Every client sends one picture after the other,
and waits for the answer, until the time is over. A request that is refused or not answered within a
minute is an error; the exit code is 1 where there was any.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

LONGEST = 600
TIMEOUT = 60.0


@dataclass(frozen=True)
class Load:
    """What a load test measured."""

    clients: int
    seconds: float
    requests: int
    errors: int
    images_per_second: float
    milliseconds: dict[str, float]
    mean_batch: float


@contextmanager
def running(command: str, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``vlprompt serve`` or ``vlprompt app`` on a free port: its address and its process."""
    line = [sys.executable, "-m", "vlprompt", command, *words, "--port", "0"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        if "http://" not in ready:
            raise RuntimeError(f"'vlprompt {command}' did not start, exit code {process.wait(60)}")
        yield "http://" + ready.split("http://")[1].split()[0], process
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def pictures(count: int = 8, side: int = 256) -> list[bytes]:
    """JPEG files with different noise."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((side, side)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def put_under_load(address: str, clients: int, seconds: float) -> Load:
    """Run the clients and measure."""
    files = pictures()

    def client(number: int) -> tuple[list[float], int]:
        latencies, errors = [], 0
        while (begin := time.perf_counter()) < end:
            picture = files[(number + len(latencies)) % len(files)]
            try:
                good = opened[number].post(f"{address}/predict", content=picture).status_code == 200
            except httpx.HTTPError:
                good = False
            errors += not good
            latencies.append(time.perf_counter() - begin)
        return latencies, errors

    with ExitStack() as stack:
        # Opened before the clock starts, and without certificates, which take longer than a request.
        opened = [
            stack.enter_context(httpx.Client(timeout=TIMEOUT, trust_env=False, verify=False))
            for _ in range(clients)
        ]
        threads = stack.enter_context(ThreadPoolExecutor(clients))
        start = time.perf_counter()
        end = start + min(seconds, LONGEST)
        results = list(threads.map(client, range(clients)))
    took = time.perf_counter() - start
    latencies = np.array([value for values, _ in results for value in values])
    errors = sum(count for _, count in results)
    points = dict(zip(("p50", "p90", "p99", "max"), np.percentile(latencies, (50, 90, 99, 100)), strict=True))
    return Load(
        clients,
        round(took, 1),
        len(latencies),
        errors,
        round((len(latencies) - errors) / took, 1),
        {name: round(float(value) * 1e3, 1) for name, value in points.items()},
        httpx.get(f"{address}/health", timeout=TIMEOUT, trust_env=False).json()["mean_batch"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with running("serve", str(options.classifier)) as (address, _):
        load = put_under_load(address, options.clients, options.seconds)
    if options.json:
        print(json.dumps(asdict(load)))
    else:
        for name, value in asdict(load).items():
            print(f"{name.replace('_', ' '):18} {value}")
    return 1 if load.errors else 0


if __name__ == "__main__":
    sys.exit(main())
