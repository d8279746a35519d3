"""How the command ends when it is stopped, or when nobody takes its output."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from support import start, vlprompt, write_photos


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_fit_ends_soon_with_one_line(tmp_path, number, code):
    photos = write_photos(tmp_path / "photos")
    process = start("fit", photos, "--out", tmp_path / "out", "--shots", 2, "--epochs", 100_000)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out.part/checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    *cost, last = said.splitlines()  # what takes two minutes and more is announced
    assert all(line.startswith("train: 100000 steps, about") for line in cost)
    assert last == "vlprompt: stopped; the same command goes on where it was"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_that_other_code_makes_an_error_of(tmp_path, number, code):
    """As libraries in C and Rust do in the middle of reading a file."""
    raised = f"os.kill(os.getpid(), {number:d})\n    time.sleep(60)"
    caught = "except KeyboardInterrupt:\n    raise ValueError('damaged')"
    (tmp_path / "own.py").write_text(f"import os, time\ntry:\n    {raised}\n{caught}\n")
    process = start("fit", write_photos(tmp_path / "photos"), "--method", tmp_path / "own.py")
    assert process.communicate(timeout=300)[1] == "vlprompt: stopped; the same command goes on where it was\n"
    assert process.returncode == code


@pytest.mark.parametrize(("target", "code"), [("| true", 0), ("> /dev/full", 2)])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at once"])
def test_output_that_nobody_takes(target, code, unbuffered, tmp_path):
    command = f"set -o pipefail; {sys.executable} -m vlprompt data check {tmp_path} --json {target}"
    own = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", command], env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (code == 2)


def test_ctrl_c_after_the_end_changes_nothing(tmp_path, monkeypatch):
    """The result, shorter than a buffer, has come: there is nothing that could go on."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    process = start("data", "check", tmp_path, "--json")
    assert process.stdout.read(1) == "["
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0 and process.stderr.read() == ""
    assert process.stdout.read().endswith("]\n")


def test_names_that_are_no_utf_8(tmp_path, capfdbinary):
    """As folders they are names like others; as class names they cannot be."""
    photos = write_photos(tmp_path / "photos")
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.rename(photos, odd)
    words = ["fit", os.fsdecode(odd), "--method", "zeroshot", "--shots", "2", "--out"]
    line = [sys.executable, "-m", "vlprompt", *words, odd + b"-out"]
    done = subprocess.run(line, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert b"caf\xe9-out" in done.stdout and b"Traceback" not in done.stderr
    assert vlprompt("fit", "--config", os.fsdecode(odd + b"-out/fit.yaml"), "--force") == 0
    os.rename(odd + b"/green", odd + b"/gr\xfcn")
    capfdbinary.readouterr()
    assert vlprompt(*words, tmp_path / "other") == 2
    said = capfdbinary.readouterr().err
    assert said.count(b"\n") == 1 and b"is no text in UTF-8: rename its folder" in said
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob("*.part"))


def test_warnings_of_libraries_are_lines(tmp_path):
    """Of no module, and without the source: such as Pillow's of a palette with transparency."""
    photos = write_photos(tmp_path / "photos")
    large = Image.new("1", (10_000, 9_500))  # Pillow finds that it might be a bomb
    large.save(photos / "green" / "large.png")
    process = start("fit", photos, "--method", "zeroshot", "--shots", 2, "--out", tmp_path / "out")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0
    lines = [line for line in said.splitlines() if "95000000 pixels" in line]
    assert lines and all(line.startswith("warning: Image size (95000000 pixels)") for line in lines)
    assert ".py" not in said
