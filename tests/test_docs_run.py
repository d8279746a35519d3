"""Every command of the pages runs, one after the other, with what a reader has by then.

The toy backbone stands in for the hub's, a few small pictures for photos, two images a class and one epoch
for what the page says; a benchmark is only planned.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from support import write_photos
from test_data_benchmark import caltech101, dtd
from test_docs import ROOT, commands
from vlprompt.cli.main import main
from vlprompt.methods import get_method

ELSEWHERE = {
    r"vlprompt serve ": "test_serve.py",
    r"vlprompt app ": "test_app.py",
    r"vlprompt demo\b": "test_jobs.py",
    r"vlprompt export \S+ \S+\.onnx": "test_export.py",
    r"vlprompt report ": "test_bench_report.py",
    r"vlprompt bench .*--cluster": "test_bench.py",
    r"vlprompt fit hub:": "test_data_hub.py",
    r" --help$": "test_docs.py",
}
"""Commands that listen, need other programs or take long, and the tests that run them."""
FOLDERS = "photos my_images tiles test_images new_photos other_labelled_photos heap"
PICTURES = "photo.jpg new.jpg a.jpg b.png"
HUB = re.compile(r"(openai|google|facebook|laion)/\S+|/models/\S+")
QUICK = {"shots": "2", "epochs": "1", "views": "2", "control": "1", "search-epochs": "1"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with all that the pages speak of."""
    folder = tmp_path_factory.mktemp("desk")
    photos = write_photos(folder / "photos")
    for name in FOLDERS.split()[1:]:
        shutil.copytree(photos, folder / name)
    for i, path in enumerate(sorted((folder / "new_photos").rglob("*.png"))):
        path.rename(folder / "new_photos" / f"{i}.jpg")
    for name in PICTURES.split():
        shutil.copy(photos / "green" / "0.png", folder / name)
    for name in ("reviews.csv", "more-reviews.csv"):
        lines = [f"a {word} film number {i},{word}" for i in range(6) for word in ("good", "bad")]
        (folder / name).write_text("\n".join(["text,label", *lines]) + "\n")
    (folder / "examples").symlink_to(ROOT / "examples")
    for make in (caltech101, dtd):
        make(folder / "data")
    return folder


@pytest.fixture(scope="module")
def done() -> dict[tuple[str, ...], str]:
    """The commands that ran, and what they made: a fit that differs only in its folders is not run again."""
    return {}


def quick(words: list[str]) -> list[str]:
    """The same command, small."""
    command, words = words[0], [re.sub(r"^/data$", "data", HUB.sub("toy", word)) for word in words]
    words = [re.sub(r"^Qwen/\S+", "toy-text", word) for word in words]
    words = [re.sub(r"^toy:\w+$", "photos/", word) for word in words]
    if command in ("bench", "compare"):
        return [*words, *(() if "--plan" in words else ("--plan",))]
    if command not in ("fit", "search", "distill"):
        return words
    default = {"fit": "coop", "search": "dpl", "distill": "promptkd"}[command]
    method = words[words.index("--method") + 1] if "--method" in words else default
    known = {field.name.replace("_", "-") for field in fields(get_method(method, files=True).Settings)}
    known |= {"control"} & {word[2:] for word in words}
    for name in known & QUICK.keys() | ({"shots"} if command != "distill" else set()):
        if f"--{name}" in words:
            words[words.index(f"--{name}") + 1] = QUICK[name]
        else:
            words += [f"--{name}", QUICK[name]]
    return words


SHOWN = [one for one in commands() if not any(re.search(p, one.text) for p in ELSEWHERE)]
FIRST = "index.md"
"""The other pages use what is made there."""


@pytest.mark.parametrize("page", sorted({one.page for one in SHOWN}, key=lambda page: (page != FIRST, page)))
def test_every_command_runs(page, desk, done, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    if page != FIRST and not Path("herons").exists():
        assert main(["fit", "photos/", "--shots", "2", "--epochs", "1", "--out", "herons/"]) == 0
    failed: list[str] = []
    for one in (one for one in SHOWN if one.page == page):
        words = quick(shlex.split(one.text, comments=True)[1:])
        out = words[words.index("--out") + 1] if "--out" in words else ""
        key = tuple(word for word in words if word not in (out, *(f"{n}/" for n in FOLDERS.split())))
        if words[0] == "fit" and key in done:
            if not Path(out).exists():
                shutil.copytree(done[key], out)
            continue
        capsys.readouterr()
        if main(words) == 0:
            done[key] = out
        else:
            failed.append(f"{one.text}: {shlex.join(words)}: {capsys.readouterr().err}")
    assert not failed, "\n".join(failed)


def test_commands_that_run_elsewhere_are_in_the_pages():
    for pattern, file in ELSEWHERE.items():
        assert any(re.search(pattern, one.text) for one in commands()), pattern
        assert (ROOT / "tests" / file).is_file()
