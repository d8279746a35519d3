"""Thousands of damaged files: each is read, or refused in one line.

Never more than 2 GB or 20 seconds, no file outside the folders that belong to it, no program, no network.
Examples follow from the tests' names, so every run tries the same; ``FUZZ`` is the share of them that is run.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import vlprompt
from forks import left_over
from support import photos_and_labels, write_photos
from vlprompt import PromptClassifier, UserError
from vlprompt.benchmark.report import write_bench_report
from vlprompt.benchmark.store import Store, finished_runs
from vlprompt.cli.config_file import expand_config
from vlprompt.cli.fit import _parse
from vlprompt.data import open_image, read_csv
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.estimator import artifact, loading

MEMORY, SECONDS = 2 << 30, 20
WHOLE = 0.05
"""Share of the artifacts that are loaded with their backbone, predict and are saved again."""
SHARE = float(os.environ.get("FUZZ", "1"))
OUTSIDE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn")
PICTURE = np.zeros((1, 32, 32), np.uint8)
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**9, 10**40, 1.5, float("nan"), float("inf"), 1e308, "", "x", "../../etc/passwd",
    "/etc/passwd", "evil.py", "a\nb", "\0", "\ud800", "x" * 10_000, [], {}, [[]], [1, "a", None], {"a": 1},
    [0] * 2000,
)  # fmt: skip


def examples(count: int) -> Any:
    """So many examples, the same in every run."""
    return settings(
        max_examples=max(int(count * SHARE), 1),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Guard:
    """Watches what a reader opens and starts, and how much it takes."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.seen: list[str] = []
        self.said = ""
        own = {sys.prefix, sys.base_prefix, str(Path(vlprompt.__file__).parent), "/proc", "/sys", "/dev/null"}
        self.always = (
            *own,
            *(folder for folder in sys.path if folder),
            "/usr/share/zoneinfo",
            "/etc/mime.types",
        )
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in OUTSIDE:
            self.seen.append(f"{event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]).replace("\0", "?"))
            if not path.startswith(self.allowed + self.always):
                self.seen.append(path)

    @contextmanager
    def over(self, folder: Path) -> Any:
        """Only this folder is to be opened; the bounds of memory and time hold."""
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        self.allowed, self.seen = (
            (os.path.realpath(folder), os.path.realpath(os.environ["VLPROMPT_CACHE"])),
            [],
        )
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        try:
            yield
        except UserError as error:
            self.said = str(error)
        finally:
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_AS, before)
            self.allowed = None
        assert not self.seen and "\n" not in self.said


class TooLongError(BaseException):
    """Nothing catches it on its way."""


def _too_long(*_: object) -> None:
    raise TooLongError(f"more than {SECONDS} seconds")


@pytest.fixture(scope="module")
def guard():
    logging.getLogger("vlprompt").setLevel(logging.ERROR)
    return Guard()


@pytest.fixture(scope="module")
def encoder():
    return Encoder(load_backbone("toy"))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    """Good files of each kind, to be damaged."""
    folder = tmp_path_factory.mktemp("seeds")
    paths, labels = photos_and_labels(write_photos(folder / "photos", each=2))
    made = {"coop": {"n_ctx": 2, "class_specific": True}, "dpl": {"text_max": 2, "vision_max": 2}, "tip": {}}
    for method, changes in made.items():
        classifier = PromptClassifier(method, settings={"epochs": 1, **changes})
        classifier.fit(paths, labels).save(folder / method)
    for suffix in ("jpg", "png", "gif", "webp", "bmp", "tiff", "ppm"):
        Image.open(paths[0]).save(folder / f"image.{suffix}")
    rows = [
        f"{path},{label},{split}"
        for path, label, split in zip(paths, labels, ["train", "test"] * 3, strict=True)
    ]
    (folder / "list.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    (folder / "fit.yaml").write_text(
        "data: photos\nout: new\nmethod: coop\nshots: 2\nlr: 0.01\ntemplates:\n- a {}.\nclip_grad: null\n"
    )
    run = {
        "suite": "toy", "protocol": "few-shot", "model": "toy", "revision": None, "dataset": "shapes",
        "method": "coop", "settings": {"epochs": 2}, "preset": "", "augment": "none", "shots": 1, "seed": 1,
        "version": 1,
    }  # fmt: skip
    record = {
        "key": "a", "run": run, "seconds": 1.0,
        "metrics": {"test": dict.fromkeys(("accuracy", "macro_f1", "ece", "n"), 50.0)},
        "lengths": {"text": [1], "vision": [2], "text_confidence": [], "vision_confidence": []},
        "parameters": 1, "command": "c", "version": "0", "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    lines = [json.dumps(record | {"key": key, "run": run | {"seed": seed}}) for seed, key in enumerate("abc")]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    write_bench_report(finished_runs(folder), folder / "report.html")  # which has read all fonts now
    return folder


def damaged(content: bytes, draw: Random) -> bytes:
    """A file with a few of its bytes changed, removed, doubled or cut off."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randint(0, max(len(changed) - 1, 0)), draw.randint(1, 40)
        match draw.choice(("flip", "random", "remove", "double", "cut", "insert", "nasty")):
            case "flip" if changed:
                changed[at] ^= 1 << draw.randint(0, 7)
            case "random":
                changed[at : at + length] = bytes(draw.randint(0, 255) for _ in range(length))
            case "remove":
                del changed[at : at + length]
            case "double":
                changed[at:at] = changed[at : at + length]
            case "cut":
                del changed[at:]
            case "insert":
                changed[at:at] = bytes([draw.choice(b'[{"\\0\xff,:9.-')]) * draw.choice((1, 3, 3000))
            case _:
                changed[at:at] = str(draw.choice(NASTY)).encode(errors="replace")
    return bytes(changed)


def altered(value: Any, draw: Random) -> Any:
    """A JSON value with one of its parts replaced, removed or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        match draw.choice(("deeper", "deeper", "deeper", "remove", "add", "rename")):
            case "deeper":
                return value | {key: altered(value[key], draw)}
            case "remove":
                return {k: v for k, v in value.items() if k != key}
            case "add":
                return value | {"more": draw.choice(NASTY)}
            case _:
                return {("x" if k == key else k): v for k, v in value.items()}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        return [*value[:at], altered(value[at], draw), *value[at + draw.randint(0, 1) :]]
    return draw.choice(NASTY)


def altered_json(content: bytes, draw: Random) -> bytes:
    """A JSON file, altered as JSON."""
    value = json.loads(content)
    for _ in range(draw.randint(1, 3)):
        value = altered(value, draw)
    return json.dumps(value).encode()


def altered_tensors(content: bytes, draw: Random) -> bytes:
    """A safetensors file whose header is altered, or whose numbers are no numbers."""
    size = struct.unpack("<Q", content[:8])[0]
    header, numbers = content[8 : 8 + size], bytearray(content[8 + size :])
    if draw.random() < 0.3:
        at = draw.randrange(0, max(len(numbers) - 4, 1), 4)
        numbers[at : at + 4] = struct.pack("<f", draw.choice((float("nan"), float("inf"), 3e38)))
    else:
        header = altered_json(header, draw)
    return struct.pack("<Q", len(header)) + header + bytes(numbers)


@contextmanager
def room() -> Any:
    """A folder for one example."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield Path(folder)


@examples(10_000)
@given(draw=st.randoms(use_true_random=False))
def test_artifacts(guard, seeds, encoder, draw):
    name = draw.choice(("config.json", "config.json", "prompts.safetensors", "history.json"))
    with room() as folder:
        given = shutil.copytree(seeds / draw.choice(("coop", "dpl", "tip")), folder / "given")
        content = (given / name).read_bytes()
        how = altered_tensors if name.endswith("tensors") else altered_json
        (given / name).write_bytes(draw.choice((damaged, how))(content, draw))
        with guard.over(folder):
            if draw.random() < WHOLE:
                classifier = PromptClassifier.load(given)
                assert np.isfinite(classifier.predict_proba(PICTURE)).all()
                classifier.save(folder / "again")
            else:  # which leaves out the backbone, the same every time and by far the slowest
                tensors, config, _ = artifact.read(given)
                _, kind = loading.saved_method(given, config["method"], "")
                loading.trained_method(given, kind, config, encoder, tensors)
        assert not left_over(folder)


@examples(2_000)
@given(draw=st.randoms(use_true_random=False))
def test_images(guard, seeds, draw):
    with room() as folder:
        file = draw.choice(sorted(seeds.glob("image.*")))
        target = folder / draw.choice((file.name, "image.png"))
        target.write_bytes(damaged(file.read_bytes(), draw))
        with guard.over(folder):
            open_image(target)


@examples(1_000)
@given(draw=st.randoms(use_true_random=False))
def test_csv_files(guard, seeds, draw):
    with room() as folder:
        (folder / "list.csv").write_bytes(damaged((seeds / "list.csv").read_bytes(), draw))
        with guard.over(seeds):
            guard.allowed += (os.path.realpath(folder),)
            read_csv(folder / "list.csv", show=False)


@examples(1_000)
@given(draw=st.randoms(use_true_random=False))
def test_yaml_files(guard, seeds, draw):
    with room() as folder:
        (folder / "fit.yaml").write_bytes(damaged((seeds / "fit.yaml").read_bytes(), draw))
        with guard.over(folder):
            words = expand_config(["--config", str(folder / "fit.yaml")])
            _parse([word for word in words if word not in ("-h", "--help")])


@examples(2_000)
@given(draw=st.randoms(use_true_random=False))
def test_result_stores(guard, seeds, draw):
    with room() as folder:
        lines = (seeds / "results.jsonl").read_bytes().splitlines(keepends=True)
        at = draw.randrange(len(lines))
        lines[at] = draw.choice((damaged, altered_json))(lines[at], draw) + b"\n" * draw.randint(0, 1)
        (folder / "results.jsonl").write_bytes(before := b"".join(lines))
        with guard.over(folder):
            records = finished_runs(folder)
            if draw.random() < 0.02:
                write_bench_report(records, folder / "report.html")
        assert (folder / "results.jsonl").read_bytes() == before
        with guard.over(folder):
            Store(folder / "results.jsonl").open()
