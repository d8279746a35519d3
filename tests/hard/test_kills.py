"""A command that is killed at any moment: the same command again ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from forks import Command, content
from support import random_clip, write_clip
from vlprompt import PromptClassifier
from vlprompt.engine.backbones.load import load_backbone

KILLS = int(os.environ.get("KILLS", "20"))
STOPPED = "vlprompt: stopped; the same command goes on where it was"
SOON = 3.0
"""Seconds in which a command ends that is told to."""


@dataclass
class Job:
    """A command that writes below ``out``."""

    words: tuple[object, ...]
    out: Path
    said: Path

    def start(self) -> Command:
        return Command(*self.words, said=self.said)


def clip_of_some_size(folder: Path) -> Path:
    """A pickled CLIP of 60 MB, so that its conversion takes a moment."""
    write_clip(folder, safe=False)
    model: CLIPModel = random_clip(512)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(params=["fit: search stage", "fit: train stage", "bench", "export", "search", "conversion"])
def job(request, photos, tmp_path, monkeypatch) -> Job:
    """Each command that works for a while."""
    out = tmp_path / "out"
    few = ("--shots", 2)
    if request.param == "fit: search stage":
        stages = ("--preset", "paper", "--search-epochs", 12, "--epochs", 2)
        words = ("fit", photos, "--out", out / "c", "--method", "dpl", *stages, *few)
    elif request.param == "fit: train stage":
        words = ("fit", photos, "--out", out / "c", "--method", "maple", "--epochs", 15, *few)
    elif request.param == "bench":
        choice = ("--methods", "zeroshot,coop,kgcoop", "--datasets", "shapes", "--seeds", "1,2", "--shots", 1)
        words = ("bench", "--out", out, "--workers", 1, "--set", "coop.epochs=10", *choice)
    elif request.param == "export":
        PromptClassifier("vpt", settings={"epochs": 0}).fit(sorted(photos.rglob("0.png")), list("abc")).save(
            tmp_path / "c"
        )
        words = ("export", tmp_path / "c", out / "c.onnx")
    elif request.param == "search":
        words = ("search", photos, "--out", out / "lengths.json", "--epochs", 12, *few)
    else:
        folder = clip_of_some_size(tmp_path / "clip")
        monkeypatch.setenv("VLPROMPT_CACHE", str(out))
        words = (lambda: load_backbone(str(folder)),)
    return Job(words, out, tmp_path / "said")


def test_killed_at_any_moment(job):
    start = time.monotonic()
    assert job.start().end() == 0, job.said.read_text()
    took = time.monotonic() - start
    expected = content(job.out)
    assert expected
    shutil.rmtree(job.out)
    draw, kills, undisturbed = random.Random(1), 0, 0
    while kills < KILLS:
        command = job.start()
        time.sleep(draw.uniform(0, took))
        command.signal(signal.SIGKILL)
        code = command.end()
        kills += code == -signal.SIGKILL
        if code == 0:
            undisturbed += 1
            assert content(job.out) == expected
            shutil.rmtree(job.out)
        else:
            assert code == -signal.SIGKILL, job.said.read_text()
        assert undisturbed < 5 * KILLS
    assert job.start().end() == 0, job.said.read_text()
    assert content(job.out) == expected
    print(f"{kills} kills, {undisturbed + 2} times to the end, {took:.1f} s each")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop(job, number, code):
    if callable(job.words[0]):
        pytest.skip("no command of its own")
    draw, slowest = random.Random(2), 0.0
    for _ in range(4):
        command = job.start()
        time.sleep(draw.uniform(0.05, 0.6))
        sent = time.monotonic()
        command.signal(number)
        ended = command.end()
        slowest = max(slowest, time.monotonic() - sent)
        if ended != 0:  # it was done before
            assert ended == code, job.said.read_text()
            assert [line for line in command.lines() if line.startswith("vlprompt: ")] == [STOPPED]
            assert not any("Traceback" in line for line in command.lines())
    assert slowest < SOON
    print(f"ended after at most {slowest:.2f} s")
