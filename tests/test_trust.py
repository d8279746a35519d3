"""Files that one may have been given execute nothing: classifiers, results, configurations, backbones."""

import io
import json
import shutil
from contextlib import suppress

import pytest

from support import vlprompt, write_clip
from vlprompt.benchmark.results import method_title
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier

EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from vlprompt.methods.coop import CoOp

class Evil(CoOp):
    name = "evil"
    added = CoOp.added
"""
OWN_LOSS = """
from dataclasses import dataclass
from vlprompt.methods.base import Method

@dataclass(frozen=True, kw_only=True)
class Added:
    strength: float = 0.5
    \"\"\"how strong\"\"\"

class Loss(Method):
    Settings = Added
    def terms(self, outputs):
        return super().terms(outputs) | {"mine": self.settings.strength * outputs.logits.square().mean()}

class Mine(Loss):
    name, title, paper, year, learns = "mine", "Mine", "0000.00000", 2026, "nothing"
    added = Loss
"""


@pytest.fixture(scope="module")
def coop(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("coop") / "c"
    assert vlprompt("fit", photos, "--out", out, "--shots", 2, "--epochs", 1) == 0
    return out


@pytest.fixture
def evil(tmp_path):
    file = tmp_path / "evil.py"
    file.write_text(EVIL)
    return file


NAMED = ("{}", "{}+kgcoop", "kgcoop+{}", "dpl+kgcoop+{}", "{}+{}")
COMMANDS = ("predict", "evaluate", "words", "serve", "export", "app")


@pytest.mark.parametrize(("command", "name"), [*zip(COMMANDS, (*NAMED, "{}"), strict=True)])
def test_a_classifier_executes_no_file(coop, photos, evil, tmp_path, capsys, name, command):
    given = shutil.copytree(coop, tmp_path / "given")
    config = json.loads((given / "config.json").read_text())
    config["method"] = name.format(evil, evil)
    (given / "config.json").write_text(json.dumps(config))
    more = {
        "predict": [photos],
        "evaluate": [photos],
        "export": [tmp_path / "x.onnx"],
        "serve": ["--port", 0],
    }
    assert vlprompt(command, given, *more.get(command, ["--port", 0] if command == "app" else [])) == 2
    assert "give its file as method" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_results_execute_no_file(evil, tmp_path):
    for name in (str(evil), f"{evil}+kgcoop", f"kgcoop+{evil}"):
        assert method_title(name) == name
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("fit", "method: {}"),
        ("fit", "method: dpl+{}"),
        ("bench", "methods: [coop, {}]"),
        ("bench", "methods: 'coop,{}'"),
    ],
)
def test_a_configuration_executes_no_file(evil, photos, tmp_path, capsys, command, line):
    (tmp_path / "f.yaml").write_text(line.format(evil))
    words = [photos, "--out", tmp_path / "o"] if command == "fit" else ["--plan", "--out", tmp_path / "o"]
    assert vlprompt(command, *words, "--config", tmp_path / "f.yaml") == 2
    assert "is executed only where the command names it" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_joined_method_of_ones_own_is_built_again(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_LOSS)
    words = ["fit", photos, "--out", "own", "--method", "coop+mine.py", "--shots", 2, "--epochs", 1]
    assert vlprompt(*words) == 0
    assert vlprompt("predict", "own", photos) == 2
    assert "made by a method of its own (coop+mine.py)" in capsys.readouterr().err
    for given in ("mine.py", "coop+mine.py"):
        assert vlprompt("evaluate", "own", photos, "--method", given) == 0
        assert vlprompt("words", "own", "--method", given) == 0
    clf = PromptClassifier.load("own", method="mine.py")
    assert [c.__name__ for c in type(clf.method_).__mro__[:2]] == ["CoOp", "Loss"]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
        ("preprocessor_config.json", {"AutoImageProcessor": "evil.Evil"}),
        ("config.json", {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}),
    ],
)
def test_a_backbone_executes_no_file_and_asks_nothing(tmp_path, monkeypatch, file, kind):
    folder = write_clip(tmp_path / "clip")
    (folder / "evil.py").write_text(EVIL)
    names = {
        "tokenizer_config.json": ("tokenizer_class", "Evil"),
        "preprocessor_config.json": ("image_processor_type", "Evil"),
        "config.json": ("model_type", "evil"),
    }
    content = json.loads((folder / file).read_text())
    content |= {"auto_map": kind, names[file][0]: names[file][1]}
    (folder / file).write_text(json.dumps(content))
    for other in ("tokenizer.json", "processor_config.json") if file != "config.json" else ():
        if (folder / other).exists() and file == "preprocessor_config.json":
            (folder / other).unlink()
    answers = io.StringIO("y\ny\ny\n")
    monkeypatch.setattr("sys.stdin", answers)
    with suppress(UserError):  # it may be read without its code
        load_backbone(str(folder))
    assert answers.tell() == 0, "it asked"
    assert not (folder / "ran").exists()
