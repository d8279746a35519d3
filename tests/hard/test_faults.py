"""A machine that does not behave: full, read-only, shared, without a home, with a clock that jumps."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from forks import Command, content, left_over, timeless
from support import write_clip
from vlprompt import PromptClassifier
from vlprompt.engine.backbones.load import load_backbone

UNWRITABLE = ("No space left on device", "File too large", "Read-only file system", "Permission denied")


@contextmanager
def disk(where: Path, kilobytes: int) -> Iterator[Path]:
    """A small disk, where we may mount one."""
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(where)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def resized(where: Path, option: str) -> None:
    """Another size, or read-only."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(where)], check=True)


@pytest.fixture(scope="module")
def kept(photos, tmp_path_factory) -> Path:
    """A classifier with visual prompts."""
    out = tmp_path_factory.mktemp("kept") / "c"
    PromptClassifier("vpt", settings={"epochs": 0}).fit(sorted(photos.rglob("0.png")), list("abc")).save(out)
    return out


COMMANDS = {
    "fit": "fit PHOTOS --out OUT/c --method maple --shots 2 --epochs 2",
    "stages": "fit PHOTOS --method dpl --preset paper --out OUT/c --search-epochs 2 --epochs 1 --shots 2",
    "search": "search PHOTOS --out OUT/l.json --shots 2 --epochs 2",
    "export": "export KEPT OUT/c.onnx",
    "transformers": "export KEPT OUT/c --format transformers",
    "report": "report RESULTS --out OUT/r.html --tables OUT",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A finished benchmark."""
    out = tmp_path_factory.mktemp("bench") / "out"
    words = (
        "bench",
        "--out",
        out,
        "--methods",
        "zeroshot",
        "--seeds",
        1,
        "--shots",
        1,
        "--datasets",
        "shapes",
    )
    assert Command(*words, said=out.with_name("said")).end() == 0
    return out


@pytest.fixture(params=COMMANDS)
def words(request, photos, kept, results) -> list[str]:
    """A command, with OUT still to be replaced."""
    places = {"PHOTOS": str(photos), "KEPT": str(kept), "RESULTS": str(results)}
    if request.param == "transformers":
        places["KEPT"] = str(kept.with_name("coop"))
        if not kept.with_name("coop").exists():
            paths = sorted(photos.rglob("0.png"))
            PromptClassifier("coop", settings={"epochs": 0}).fit(paths, list("abc")).save(places["KEPT"])
    return [places.get(word, word) for word in COMMANDS[request.param].split()]


def one_line(command: Command) -> str:
    """What a command that failed says."""
    assert not any("Traceback" in line for line in command.lines()), command.lines()
    (line,) = [line for line in command.lines() if line.startswith("vlprompt: ")]
    return line


def test_a_full_disk(words, tmp_path):
    """At any write: nothing half, what was there stays, and with room the same command ends as ever."""
    with disk(tmp_path / "disk", 64_000) as out:
        words = [word.replace("OUT", str(out)) for word in words]
        assert Command(*words, said=tmp_path / "said").end() == 0
        expected, needed = content(out), sum(f.stat().st_blocks // 2 for f in out.rglob("*"))
        wipe(out)
        (out / "mine.txt").write_text("mine")
        draw, refused = random.Random(3), 0
        for size in [4, 8, *sorted(draw.randint(4, needed + 8) for _ in range(6))]:
            resized(out, f"size={size}k")
            command = Command(*words, said=tmp_path / "said")
            code = command.end()
            assert code in (0, 2), command.lines()
            if code:
                refused += 1
                assert any(word in one_line(command) for word in UNWRITABLE), command.lines()
                for path in out.iterdir():  # whole, or checkpoints to go on from
                    assert path.name in ("mine.txt", "c.part") or timeless(path) == expected[path.name], path
            assert (out / "mine.txt").read_text() == "mine"
        assert refused > 1
        resized(out, "size=64000k")
        assert Command(*words, said=tmp_path / "said").end() == 0
        (out / "mine.txt").unlink()
        assert content(out) == expected


def test_a_benchmark_on_a_full_disk(tmp_path):
    """No room for a record, then none for the page: what is recorded stays, and with room it goes on."""
    choice = ("--methods", "zeroshot,linear", "--datasets", "shapes", "--seeds", 1, "--shots", 1)
    with disk(tmp_path / "disk", 64_000) as out:
        words = ("bench", "--out", out, "--workers", 1, *choice)
        assert Command(*words, said=tmp_path / "said").end() == 0
        expected = content(out)
        wipe(out)
        (out / "mine.txt").write_text("mine")
        for size, recorded in ((4, 0), (8, 2), (64_000, 2)):
            resized(out, f"size={size}k")
            command = Command(*words, said=tmp_path / "said")
            assert command.end() == (0 if size == 64_000 else 2), command.lines()
            if size < 64_000:
                assert UNWRITABLE[0] in one_line(command) and not list(out.glob("report*"))
            assert len((out / "results.jsonl").read_text().splitlines()) == recorded
        (out / "mine.txt").unlink()
        assert content(out) == expected


def wipe(folder: Path) -> None:
    """All that is in a folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_files_that_may_not_grow(words, tmp_path):
    """As a quota: the same without a disk of one's own."""

    def limit(size: int):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    (tmp_path / "out").mkdir()
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    for size in (0, 1000, 5000):
        command = Command(*words, said=tmp_path / "said", limit=limit(size))
        if size == 0:
            assert command.end() != 0  # which may not even say why
        elif command.end():
            assert "File too large" in one_line(command)
            assert {path.name for path in (tmp_path / "out").iterdir()} <= {"c.part", "l.json"}
    assert Command(*words, said=tmp_path / "said").end() == 0
    assert not left_over(tmp_path)


def test_a_read_only_disk(words, tmp_path):
    with disk(tmp_path / "disk", 64_000) as out:
        words = [word.replace("OUT", str(out)) for word in words]
        resized(out, "ro")
        command, start = Command(*words, said=tmp_path / "said"), time.monotonic()
        assert command.end() == 2 and "Read-only file system" in one_line(command)
        assert time.monotonic() - start < 30 and not list(out.iterdir())


# The cache.


def converted(folder: Path) -> str:
    """A backbone of pickled weights, which the cache keeps converted."""
    return load_backbone(str(folder)).digest


@pytest.fixture(scope="module")
def pickled(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"), safe=False)


@pytest.mark.parametrize("how", ["damaged", "unreadable", "a file", "full", "read-only"])
def test_a_cache_that_cannot_be_used(how, pickled, tmp_path, monkeypatch):
    """What it keeps is made anew, or done without."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("VLPROMPT_CACHE", str(cache))
    expected = converted(pickled)
    files = [file for file in cache.rglob("*") if file.is_file()]
    assert files
    draw = random.Random(4)
    if how == "a file":
        shutil.rmtree(cache)
        cache.write_text("")
        assert converted(pickled) == expected
    elif how in ("full", "read-only"):
        shutil.rmtree(cache)
        with disk(cache, 8) as small:
            resized(small, "ro" if how == "read-only" else "size=8k")
            assert converted(pickled) == expected
            assert not list(small.rglob("*.safetensors"))
    for file in files if how in ("damaged", "unreadable") else ():
        whole = file.read_bytes()
        for _ in range(8):
            if how == "unreadable":
                file.unlink()
                file.mkdir()
                assert converted(pickled) == expected
                file.rmdir()
                file.write_bytes(whole)
                break
            wrong = bytearray(whole)
            wrong[draw.randrange(len(wrong))] ^= 1 << draw.randrange(8)
            file.write_bytes(wrong[: draw.choice((len(wrong), len(wrong) // 2, 0))])
            assert converted(pickled) == expected


def test_two_processes_share_a_cache(photos, pickled, tmp_path, monkeypatch):
    monkeypatch.setenv("VLPROMPT_CACHE", str(tmp_path / "cache"))
    words = ("fit", photos, "--model", pickled, "--method", "coop", "--shots", 2, "--epochs", 2, "--out")
    for turn in range(3):
        pair = [Command(*words, tmp_path / f"{turn}{i}" / "c", said=tmp_path / f"said{i}") for i in range(2)]
        assert [command.end() for command in pair] == [0, 0], [command.lines() for command in pair]
        weights = [(tmp_path / f"{turn}{i}" / "c" / "prompts.safetensors").read_bytes() for i in range(2)]
        assert weights[0] == weights[1] and not left_over(tmp_path)
        shutil.rmtree(tmp_path / "cache")


def test_two_benchmarks_write_one_store(tmp_path):
    choice = ("--methods", "zeroshot,coop", "--datasets", "shapes", "--seeds", "1,2", "--shots", 1)
    words = ("bench", "--out", tmp_path / "out", "--workers", 1, "--set", "coop.epochs=5", *choice)
    pair = [Command(*words, said=tmp_path / f"said{i}") for i in range(2)]
    assert [command.end(300) for command in pair] == [0, 0], [command.lines() for command in pair]
    together = content(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert Command(*words, said=tmp_path / "said").end(300) == 0
    assert content(tmp_path / "out")["results.jsonl"] == together["results.jsonl"]


def test_a_clock_that_jumps(photos, tmp_path):
    """A day on, two days back: nothing depends on what time it is."""

    def jump() -> None:
        real, draw = time.time, random.Random(5)
        time.time = lambda: real() + draw.uniform(-2, 1) * 86_400

    words = ("fit", photos, "--method", "maple", "--shots", 2, "--epochs", 4, "--out")
    for name, limit in (("steady", lambda: None), ("jumping", jump)):
        assert Command(*words, tmp_path / name / "c", said=tmp_path / "said", limit=limit).end() == 0
    for path in photos.rglob("*.png"):
        os.utime(path, (0, 4e9))
    assert Command(*words, tmp_path / "future" / "c", said=tmp_path / "said").end() == 0
    weights = {
        (tmp_path / n / "c" / "prompts.safetensors").read_bytes() for n in ("steady", "jumping", "future")
    }
    assert len(weights) == 1


# The process.


SURROUNDINGS = {
    "no home": {"HOME": None},
    "a home that is not there": {"HOME": "/nonexistent/home", "XDG_CACHE_HOME": None},
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "no terminal": {"TERM": None, "COLUMNS": None, "LINES": None},
    "a narrow terminal": {"COLUMNS": "1", "TERM": "dumb"},
    "nothing at all": "PATH",
}


@pytest.mark.parametrize("how", SURROUNDINGS)
def test_surroundings(how, photos, tmp_path):
    """With 64 open files and no standard input, in a process that starts from nothing."""
    folder = shutil.copytree(photos, tmp_path / "föto")
    change = SURROUNDINGS[how]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    if change == "PATH":
        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
        environment = {name: value for name, value in environment.items() if name in kept}
        change = {"HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in {**environment, **change}.items() if v is not None}
    words = [
        "fit",
        str(folder),
        "--out",
        str(tmp_path / "öut"),
        "--method",
        "coop",
        "--shots",
        "2",
        "--epochs",
        "1",
    ]
    for line in (words, ["predict", str(tmp_path / "öut"), str(folder), "--format", "csv"]):
        done = subprocess.run(
            [sys.executable, "-m", "vlprompt", *line],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stderr
    assert len(done.stdout.decode(errors="surrogateescape").splitlines()) == 22
