"""Files that were damaged or made to do harm: read with bounded time and memory, refused in one line."""

import json
import os
import shutil
from pathlib import Path

import pytest

from support import vlprompt, write_photos
from vlprompt.data.splits import read_or_make
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import all_methods


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), each=2)


@pytest.fixture(scope="module")
def coop(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("coop") / "c"
    classifier = PromptClassifier("coop", settings={"epochs": 1, "n_ctx": 2})
    paths = sorted(photos.rglob("*.png"))
    classifier.fit(paths, [p.parent.name.replace("_", " ") for p in paths]).save(out)
    return out


@pytest.fixture
def given(coop, tmp_path):
    return shutil.copytree(coop, tmp_path / "given")


def test_prompts_that_are_a_pipe_are_refused(given):
    (given / "prompts.safetensors").unlink()
    os.mkfifo(given / "prompts.safetensors")
    with pytest.raises(UserError, match="has no prompts"):
        PromptClassifier.load(given)


@pytest.mark.parametrize("path", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", 7, None])
def test_a_split_that_leaves_its_folder(tmp_path, path):
    rows = [[path, 0, "a"]]
    (tmp_path / "split.json").write_text(json.dumps({"train": rows, "val": [], "test": []}))
    with pytest.raises(UserError, match="is damaged"):
        read_or_make(tmp_path / "split.json", lambda _: None)


def test_one_bad_image_ends_nothing(coop, photos, tmp_path, capsys):
    """predict and evaluate skip it, name it, and say so by their exit code."""
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "green" / "bad.png").write_text("no image")
    for command in ("predict", "evaluate"):
        assert vlprompt(command, coop, folder) == 1
        said = capsys.readouterr()
        assert "bad.png" in said.err and said.out
    assert vlprompt("predict", coop, folder / "green" / "bad.png") == 2
    assert vlprompt("predict", coop, photos) == 0


def test_settings_have_bounds():
    """Each setting of each method refuses what would take all memory or for ever, and other types."""
    for kind in all_methods().values():
        defaults = vars(kind.Settings())
        for name, value in defaults.items():
            wrong = ["x" * 10_000, None, [None], float("nan"), float("inf"), 10**40, -1]
            if isinstance(value, str):
                wrong = [7, None, []]
            for bad in wrong:
                with pytest.raises(UserError, match=name) as error:
                    kind.Settings(**{name: bad})
                assert len(str(error.value)) < 400, (kind.name, name, bad)
