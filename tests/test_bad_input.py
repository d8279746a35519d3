"""Every row of the table ``bad_input.py``: one line, exit code 2, no traceback, and no file is changed."""

import json
import os
import shlex
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bad_input import TABLE, Row
from support import photos_and_labels, vlprompt, write_clip, write_photos
from vlprompt import PromptClassifier, UserError, data
from vlprompt.export.onnx import export_onnx
from vlprompt.export.stock_clip import export_transformers
from vlprompt.methods import get_method
from vlprompt.methods.lengths import Lengths, uniform_lengths

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) (w) file closefile\n%%EOF\n"


def png(width: int, height: int) -> bytes:
    """A PNG of one colour, of a few bytes whatever its size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" * (1 + (width + 7) // 8)) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder that the table speaks of, and names for its expressions."""
    here = tmp_path_factory.mktemp("world")
    write_photos(here / "photos")
    photos, labels = photos_and_labels(here / "photos")
    quick = {"settings": {"epochs": 1}}
    made = {
        "kept": PromptClassifier("coop", settings={"epochs": 1, "n_ctx": 2}),
        "linear": PromptClassifier("linear"),
        "visual": PromptClassifier("vpt", **quick),
    }
    for name, classifier in made.items():
        classifier.fit(photos, labels).save(here / name)
    shutil.copytree(here / "kept", here / "given")
    write_clip(here / "clip")
    shutil.copytree(here / "photos" / "green", here / "one" / "green")
    for folder in ("hollow/a", "hollow/b", "folder.csv", "folder.py", "folder.jpg"):
        (here / folder).mkdir(parents=True)
    for name in ("pipe.jpg", "pipe.csv"):
        os.mkfifo(here / name)
    (here / "dangling").symlink_to(here / "nowhere")
    contents = {"text.png": b"not an image", "empty.png": b"", "script.jpg": EPS}
    for name, content in (contents | {"long.png": png(400_000, 1), "wide.png": png(30_000, 30_000)}).items():
        (here / name).write_bytes(content)
    given = {"X": photos, "y": labels, "np": np, "Path": Path, "Image": Image, "data": data}
    functions = (PromptClassifier, Lengths, uniform_lengths, get_method, export_onnx, export_transformers)
    return here, given | made | {function.__name__: function for function in functions}


def written(row: Row, here: Path) -> None:
    """The files of a row."""
    for name, content in row.files.items():
        file = here / name
        if content is None:
            file.unlink()
        elif isinstance(content, dict):
            before = json.loads(file.read_text())
            if isinstance(content.get("settings"), dict):
                content = content | {"settings": before["settings"] | content["settings"]}
            file.write_text(json.dumps(before | content))
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)


def taken_back(row: Row, here: Path) -> None:
    """The folder as it was before a row."""
    for name in row.files:
        if name.startswith("given/"):
            shutil.rmtree(here / "given")
            shutil.copytree(here / "kept", here / "given")
        else:
            (here / name).unlink()


def state(here: Path) -> dict[str, tuple[int, int, int]]:
    """All that is in a folder, with size and time of change."""
    found = {}
    for where, folders, names in os.walk(here):
        for name in (*folders, *names):
            stat = os.lstat(os.path.join(where, name))
            folder = name in folders
            found[os.path.join(where, name)] = (
                stat.st_mode,
                0 if folder else stat.st_size,
                0 if folder else stat.st_mtime_ns,
            )
    return found


def said(row: Row, names: dict[str, object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a row gives."""
    if row.call.startswith(">>> "):
        with pytest.raises(UserError) as error:
            eval(row.call[4:], names)
        assert "\n" not in str(error.value)
        return str(error.value)
    capsys.readouterr()
    assert vlprompt(*shlex.split(row.call)) == 2
    out, err = capsys.readouterr()
    *warnings, line = err.splitlines()
    assert out == "" and line.startswith("vlprompt: "), out + err
    assert not warnings or warnings[0].startswith("warning: skipped: image"), err
    return line


@pytest.mark.parametrize("row", TABLE, ids=[f"{i}-{row.call[:60]}" for i, row in enumerate(TABLE)])
def test_bad_input(row, world, monkeypatch, capsys):
    here, names = world
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of a method file: Python's own doing
    written(row, here)
    before = state(here)
    try:
        assert row.says in said(row, names, capsys)
        assert state(here) == before
    finally:
        taken_back(row, here)
