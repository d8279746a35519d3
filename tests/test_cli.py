"""The command: what it does, and that every bad input is one line on stderr and exit code 2."""

import csv
import io
import json
import re
import shutil
import time

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from support import NAMES, start, vlprompt
from vlprompt import __version__, data
from vlprompt.cli import main as cli
from vlprompt.data import few_shot, load
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import LISTED
from vlprompt.methods import all_methods

OWN = """
from dataclasses import dataclass
import torch
from vlprompt.methods import base

@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    strength: float = 0.5
    \"\"\"how strong\"\"\"

class Mine(base.Method):
    name, title, paper, year, learns = "mine", "My method", "0000.00000", 2026, "a bias of each class"
    Settings = Settings

    def build(self):
        self.bias = torch.nn.Parameter(torch.zeros(len(self.classnames)))

    def logits(self, images, classes):
        return super().logits(images, classes) + self.settings.strength * self.bias
"""

SAYS = '    name, title = "mine", "Mine"\n'


@pytest.fixture(scope="module")
def kept(photos, tmp_path_factory):
    """A classifier fitted by the command."""
    out = tmp_path_factory.mktemp("out") / "kept"
    assert vlprompt("fit", photos, "--out", out, "--method", "coop", "--shots", 2, "--epochs", 2) == 0
    return out


def bad(capsys, *words) -> str:
    """The one line that bad input gives."""
    capsys.readouterr()
    assert vlprompt(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("vlprompt: ") and said.err.count("\n") == 1, said.err
    return said.err


# Training.


def test_fit_writes_a_classifier_with_its_measured_accuracy(kept, photos, capsys):
    files = {p.name for p in kept.iterdir()}
    assert files == {"prompts.safetensors", "config.json", "history.json", "README.md"} | {
        "report.html",
        "fit.yaml",
        LISTED,
    }
    measured = json.loads((kept / "config.json").read_text())["measured"]["test"]
    assert measured["n"] == 9 and 0 <= measured["accuracy"] <= 100  # 7 - 2 for training - 2 for validation
    assert f"{measured['accuracy']:.2f}%" in (kept / "README.md").read_text()
    report = (kept / "report.html").read_text()
    assert "CoOp" in report and "vlprompt fit" in report and "blue square" in report
    assert not list(kept.parent.glob("*.part"))
    assert PromptClassifier.load(kept).classnames_ == NAMES


def test_fit_shows_a_table_or_one_json_object(photos, tmp_path, capsys):
    words = ["fit", photos, "--out", tmp_path / "z", "--method", "zeroshot", "--shots", 2]
    assert vlprompt(*words) == 0
    said = capsys.readouterr()
    assert re.search(r"^out +.*/z$", said.out, re.M) and re.search(r"^test +accuracy \d", said.out, re.M)
    assert said.err == ""
    assert vlprompt(*words, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["classes"] == 3 and result["train"] == 6 and 0 <= result["test"]["accuracy"] <= 100


def test_all_flags_reach_the_training(photos, tmp_path, capsys):
    lengths = tmp_path / "lengths.json"
    lengths.write_text('{"text": [1, 0, 2, 0], "vision": [0, 3, 0, 1]}')
    words = [
        "--method",
        "dpl",
        "--lengths",
        lengths,
        "--epochs",
        1,
        "--batch-size",
        3,
        "--lr",
        0.01,
        "--seed",
        5,
        "--shots",
        2,
    ]
    words += [
        "--augment",
        "crop",
        "--precision",
        "bf16",
        "--clip-grad",
        0.5,
        "--device",
        "cpu",
        "--text",
        "custom",
    ]
    words += ["--templates", "a {} thing.", "this is {}."]
    assert vlprompt("fit", photos, "--out", tmp_path / "dpl", *words) == 0
    config = json.loads((tmp_path / "dpl" / "config.json").read_text())
    settings, options = config["settings"], config["options"]
    assert (settings["text_lengths"], settings["vision_lengths"]) == ([1, 0, 2, 0], [0, 3, 0, 1])
    assert (settings["epochs"], settings["batch_size"], settings["lr"]) == (1, 3, 0.01)
    assert options == {
        "seed": 5, "device": "cpu", "precision": "bf16", "clip_grad": 0.5, "augment": "crop", "views": 0,
    }  # fmt: skip
    assert config["templates"] == ["a {} thing.", "this is {}."] and config["method"] == "dpl"
    history = json.loads((tmp_path / "dpl" / "history.json").read_text())
    assert [(r["stage"], r["epoch"]) for r in history] == [("train", 0)]


def test_settings_follow_from_the_preset(photos, tmp_path, capsys):
    words = ["fit", photos, "--shots", 1, "--out"]
    assert vlprompt(*words, tmp_path / "vpt", "--method=vpt", "--preset=shallow", "--epochs=1") == 0
    settings = json.loads((tmp_path / "vpt" / "config.json").read_text())["settings"]
    assert (settings["depth"], settings["epochs"], settings["n_ctx"]) == (1, 1, 8)


def test_a_method_file_of_your_own(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_method.py").write_text(OWN)
    words = ["fit", photos, "--out", "own", "--method", "my_method.py", "--shots", 2, "--epochs", 2]
    assert vlprompt(*words, "--strength", 0.25) == 0
    assert json.loads((tmp_path / "own" / "config.json").read_text())["settings"]["strength"] == 0.25
    assert "method of its own (my_method.py)" in bad(capsys, "predict", "own", photos)
    assert vlprompt("predict", "own", photos, "--method", "my_method.py", "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 21
    assert vlprompt("evaluate", "own", photos, "--method", "my_method.py") == 0


@pytest.mark.parametrize("content", ["def broken(:", "import no_such_package", "1 / 0", "x = 1"])
def test_a_method_file_that_is_none(content, photos, tmp_path, capsys):
    (tmp_path / "my_method.py").write_text(content)
    words = ["--out", tmp_path / "x", "--method", tmp_path / "my_method.py"]
    assert "my_method.py'" in bad(capsys, "fit", photos, *words)
    assert "does not exist" in bad(capsys, "fit", photos, *words[:3], "nowhere.py")


def test_a_method_file_takes_no_module_s_place(photos, tmp_path, capsys):
    import colorsys

    (tmp_path / "colorsys.py").write_text(OWN)
    words = ["--out", tmp_path / "x", "--method", tmp_path / "colorsys.py", "--epochs", 1, "--shots", 2]
    assert vlprompt("fit", photos, *words) == 0
    import sys

    assert sys.modules["colorsys"] is colorsys


# Predicting and measuring.


def test_predict_a_file_a_folder_and_a_pattern(kept, photos, capsys):
    probabilities = PromptClassifier.load(kept).predict_proba(sorted(photos.rglob("*.png")))
    for images, count in (
        ([photos / "green" / "0.png"], 1),
        ([photos], 21),
        ([photos / "*" / "[01].png"], 6),
    ):
        assert vlprompt("predict", kept, *images, "--format", "json") == 0
        said = capsys.readouterr()
        rows = json.loads(said.out)
        assert len(rows) == count and said.err == ""
        assert {r["class"] for r in rows} <= set(NAMES) and all(1 / 3 <= r["probability"] <= 1 for r in rows)
    assert vlprompt("predict", kept, photos, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["class"] for r in rows] == [NAMES[k] for k in probabilities.argmax(1)]
    assert np.allclose([r["probability"] for r in rows], probabilities.max(1), atol=1e-6)


def test_predict_as_csv_and_as_a_table(kept, photos, tmp_path, capsys):
    odd = tmp_path / ("a long name [red] é " * 4 + ".png")
    shutil.copy(photos / "green" / "0.png", odd)
    assert vlprompt("predict", kept, odd, "--format", "csv", "--top", 3) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["image"] for r in rows] == [str(odd)] * 3 and {r["class"] for r in rows} == set(NAMES)
    assert abs(sum(float(r["probability"]) for r in rows) - 1) < 1e-4
    assert [r["probability"] for r in rows] == sorted((r["probability"] for r in rows), reverse=True)
    assert vlprompt("predict", kept, odd) == 0
    table = capsys.readouterr().out
    assert "probability" in table and "…" not in table
    assert "".join(str(odd).split()) in "".join(re.sub(r"│[^│]*│[^│]*│\n│", "", table).split())


def test_predict_other_classes(kept, photos, capsys):
    words = ["predict", kept, photos / "green" / "0.png", "--format", "json", "--top", 9]
    assert vlprompt(*words, "--classes", "apple", "snow leopard") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {r["class"] for r in rows} == {"apple", "snow leopard"}


def test_evaluate(kept, photos, tmp_path, capsys):
    assert vlprompt("evaluate", kept, photos, "--json") == 0
    said = capsys.readouterr()
    measured = json.loads(said.out)["test"]
    pool = load(str(photos))
    trained_on = {id(item.image) for item in few_shot(pool, 2, 1).train}
    items = [item for item in pool.train if id(item.image) not in trained_on]
    predicted = PromptClassifier.load(kept).predict([item.image for item in items])
    labels = np.array([NAMES[item.label] for item in items])
    right = np.mean(predicted == labels)
    assert measured["n"] == 15 and measured["accuracy"] == pytest.approx(100 * right)
    assert "6 of 21 images of" in said.err and "are left out, as they were trained on" in said.err
    assert vlprompt("evaluate", kept, photos) == 0
    assert f"accuracy {100 * right:.2f}" in capsys.readouterr().out
    few = tmp_path / "few"
    for name in ("red thing", "green"):
        shutil.copytree(photos / name, few / name)
    assert vlprompt("evaluate", kept, few, "--json") == 0
    right = np.mean((predicted == labels)[labels != NAMES[0]])
    assert json.loads(capsys.readouterr().out)["test"]["accuracy"] == pytest.approx(100 * right)
    (few / "green").rename(few / "of_tomorrow")
    assert "class 'of tomorrow'" in bad(capsys, "evaluate", kept, few)


# Help and lists.


def test_methods_are_listed(capsys):
    assert vlprompt("methods", "--json") == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [r["method"] for r in rows] == list(all_methods()) and said.err == ""
    parameters = {r["method"]: r["parameters"] for r in rows}
    assert parameters["coop"] == 16 * 128 and parameters["zeroshot"] == 0
    assert vlprompt("methods") == 0
    assert "PromptSRC" in capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_each_command(command, capsys):
    assert vlprompt(command, "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: vlprompt {command}" in text and len(text.splitlines()) > 8


def test_help_of_fit_shows_the_settings_of_the_method(capsys):
    assert vlprompt("fit", "--method", "promptsrc", "--help") == 0
    text = capsys.readouterr().out
    assert "PromptSRC" in text and "--gpa-mean" in text and "--search-epochs" not in text


def test_help_of_the_whole(capsys):
    assert vlprompt("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in cli.COMMANDS)
    assert vlprompt() == 2
    assert capsys.readouterr().out == text
    assert vlprompt("--version") == 0
    assert capsys.readouterr().out == f"vlprompt {__version__}\n"


# Bad input, of which bad_input.py is the table.


def test_in_a_process_of_its_own_it_is_one_line_and_exit_code_2():
    process = start("fti", "x.png")
    out, error = process.communicate(timeout=300)
    assert process.returncode == 2 and out == ""
    assert error.startswith("vlprompt: unknown command 'fti'") and error.count("\n") == 1


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE"])
def test_an_environment_that_is_none_of_torchruns(variable, photos, tmp_path, capsys, monkeypatch):
    words = ["fit", photos, "--out", tmp_path / "x", "--method", "zeroshot", "--shots", 2]
    monkeypatch.setenv(variable, "x")
    assert f"{variable} 'x' in the environment is no number" in bad(capsys, *words)
    monkeypatch.setenv(variable, "1")  # left behind by another program: there is one process all the same
    assert vlprompt(*words) == 0 and (tmp_path / "x").is_dir()


def test_trackers(photos, tmp_path, capsys):
    words = ["fit", photos, "--out", tmp_path / "x", "--shots", 2, "--epochs", 1, "--track"]
    absent = sorted(LOGGER_TYPE_TO_CLASS.keys() - set(map(str, get_available_trackers())))
    assert f"tracker '{absent[0]}' is not installed" in bad(capsys, *words, absent[0])
    assert "unknown tracker 'pencil'" in bad(capsys, *words, "pencil")
    pytest.importorskip("tensorboard")
    assert vlprompt(*words, "tensorboard") == 0
    assert list((tmp_path / "x" / "logs").rglob("events.out.tfevents.*"))


BROKEN = {
    "no title": ('    name = "mine"\n', "class 'Mine' of method file 'mine.py' has no 'title': add it"),
    "build": (SAYS + "    def build(self):\n        return 1 / 0\n", "line 6, in build: ZeroDivisionError: "),
    "loss": (SAYS + "    def loss(self, batch):\n        raise ValueError('a\\nb')\n",
             "line 6, in loss: ValueError: a b"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_method_file_that_fails_is_named_with_its_line(case, photos, tmp_path, capsys, monkeypatch):
    body, says = BROKEN[case]
    monkeypatch.chdir(tmp_path)
    base = "base.Method" if case == "no title" else "coop.CoOp"
    text = f"from vlprompt.methods import base, coop\n\nclass Mine({base}):\n{body}"
    (tmp_path / "mine.py").write_text(text)
    assert says in bad(capsys, "fit", photos, "--out", "x", "--shots", 2, "--method", "mine.py")
    assert {p.name for p in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


LONG = "x" * 10_000


def test_what_nothing_can_be_made_of(kept, photos, tmp_path, capsys, monkeypatch):
    out = ["--out", tmp_path / "x"]
    for words, says in (
        (["fit", LONG, *out], "data 'xxx"),
        (["fit", photos, *out, "--shots", 2, "--model", LONG], "xxx"),
        (["fit", photos, *out, "--method", LONG], "unknown method"),
        (["fit", photos, *out, "--method", f"{LONG}.py"], "File name too long"),
        (["fit", photos, *out, "--lengths", LONG, "--method", "dpl"], "xxx"),
        (["fit", photos, "--out", tmp_path / LONG, "--shots", 2], "File name too long"),
        (["fit", "--config", LONG], "cannot be read"),
        (["predict", LONG, photos], "File name too long"),
        (["predict", kept, LONG], "'xxx"),
        (["report", LONG], "File name too long"),
        (["search", photos, *out, "--shots", 2, "--seeds"], "there are no seeds"),
        (["search", photos, "--out", "/"], "output '/' is where the page goes"),
        (["report", tmp_path, "--out", "/"], "output '/' is no file"),
        (["export", kept, "/"], "output '/' is no name of an ONNX file"),
        (["export", kept, "/", "--format", "transformers"], "output '/' is no folder of its own"),
        (["toy", "pretrain", "--out", "/"], "output '/' is no folder of its own"),
        (["demo", "--seeds", "--out", tmp_path / "demo"], "there are no seeds"),
        (["bench", "--seeds", -1, *out], "seed -1: give a whole number"),
        (["bench", "--shots", 10**30, *out], f"--shots {10**30}: give a whole number"),
        (["bench", "--set", "coop.lr=-1", *out], "lr -1"),
        (["bench", "--device", "hpu", *out], "device 'hpu' is not there"),
    ):
        assert says in bad(capsys, *words), words
        assert not list(tmp_path.iterdir()), words
    for shots in ("²", "1" * 5000):
        assert "--shots" in bad(capsys, "fit", photos, *out, "--shots", shots)
        assert "--shots" in bad(capsys, "bench", "--shots", shots, *out)


def test_no_cluster_there_is_said_at_once(tmp_path, capsys):
    pytest.importorskip("ray")
    words = ["bench", "--methods", "zeroshot", "--datasets", "fonts", "--out", tmp_path / "x", "--yes"]
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"):
        start = time.monotonic()
        capsys.readouterr()
        assert vlprompt(*words, "--cluster", address) == 2
        assert f"no Ray cluster at '{address}'" in capsys.readouterr().err
        assert time.monotonic() - start < 30 and not (tmp_path / "x").exists()


def test_a_present_folder_that_is_gone(tmp_path, capsys, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the present folder is gone" in bad(capsys, "methods")


def test_interrupted_by_the_user(photos, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vlprompt.data.load", interrupt)
    assert vlprompt("fit", photos, "--out", tmp_path / "x", "--method", "coop") == 130
    assert capsys.readouterr().err == "vlprompt: stopped; the same command goes on where it was\n"


def test_fit_tries_a_method_for_new_classes_on_classes_left_out(tmp_path, capsys):
    """Every second class is learned, the others are told apart by their names, beside zero-shot CLIP."""
    words = ["fit", "toy:colours", "--method", "genpt", "--shots", 2, "--epochs", 3, "--optimizer", "adamw"]
    assert vlprompt(*words, "--out", tmp_path / "g", "--json") == 0
    tried = json.loads(capsys.readouterr().out)["left out"]
    assert tried["classes"] == 6 and all(0 < tried[name] <= 100 for name in ("new", "zero-shot"))
    colours = data.few_shot(data.load("toy:colours"), 2, 1, strict=True)
    new = data.of_classes(colours, range(1, 12, 2))
    zero = PromptClassifier("zeroshot").fit_dataset(new)
    assert tried["zero-shot"] == pytest.approx(zero.evaluate(new.train)["accuracy"])
    assert vlprompt(*words[:3], "genpt", "--shots", 2, "--epochs", 1, "--out", tmp_path / "h") == 0
    assert "left out   classes 6, new " in capsys.readouterr().out
