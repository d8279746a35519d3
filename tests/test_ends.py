"""How the command ends when it is stopped, or when nobody takes its output."""

import signal
import subprocess
import sys
import time

import pytest

from support import start, write_photos


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
    assert said == "vlprompt: stopped; the same command goes on where it was\n"


@pytest.mark.parametrize(("target", "code"), [("| head -c 1", 0), ("> /dev/full", 2)])
def test_output_that_nobody_takes(target, code):
    command = f"set -o pipefail; {sys.executable} -m vlprompt methods --json {target}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (code == 2)
