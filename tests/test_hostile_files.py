"""Files that were damaged or made to do harm: read with bounded time and memory, refused in one line."""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from support import vlprompt, write_photos
from vlprompt.benchmark.results import check_records
from vlprompt.data.images import FORMATS, open_image
from vlprompt.data.splits import read_or_make
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import all_methods
from vlprompt.methods.lengths import Lengths
from vlprompt.reading import parse_json, parse_yaml


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


PAIRS = zip("abcdefgh", "bcdefghi", strict=True)
BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 8)}]\n" for a, b in PAIRS)
OPTIONS = {
    "seed": 1, "device": "auto", "precision": "no", "clip_grad": None, "augment": "auto", "views": 0,
}  # fmt: skip
CONFIGS = {
    "labels shorter": {"labels": ["a"]},
    "labels null": {"labels": None},
    "labels of lists": {"labels": [["a"], ["b"], ["c"]]},
    "no classes": {"classnames": [], "labels": []},
    "one class": {"classnames": ["a"], "labels": ["a"]},
    "classes null": {"classnames": None},
    "classes are a text": {"classnames": "abc"},
    "class of a number": {"classnames": [1, 2, 3]},
    "n_ctx a text": {"settings": {"n_ctx": "2"}},
    "n_ctx null": {"settings": {"n_ctx": None}},
    "n_ctx a fraction": {"settings": {"n_ctx": 1.5}},
    "n_ctx huge": {"settings": {"n_ctx": 10**9}},
    "n_ctx true": {"settings": {"n_ctx": True}},
    "n_ctx beyond the positions": {"settings": {"n_ctx": 500}},
    "no such position": {"settings": {"position": "nowhere"}},
    "no such optimizer": {"settings": {"optimizer": 7}},
    "settings a list": {"settings": [1]},
    "a context for each of many": {
        "settings": {"class_specific": True, "n_ctx": 16}, "classnames": ["x"] * 90_000, "labels": None,
    },
    "unknown option": {"options": {"seed": 1, "verbose": True}},
    "option of a type": {"options": OPTIONS | {"seed": "1"}},
    "no such precision": {"options": OPTIONS | {"precision": "int1"}},
    "options null": {"options": None},
    "preset null": {"preset": None},
    "template without a place": {"templates": ["a photo"]},
    "no template": {"templates": []},
    "templates null": {"templates": None},
    "backbone a text": {"backbone": "toy"},
    "backbone without a name": {"backbone": {"revision": None}},
    "measured a list": {"measured": [1]},
    "measured without numbers": {"measured": {"test": {"accuracy": "high"}}},
    "format a text": {"format": "1"},
    "format null": {"format": None},
    "method a number": {"method": 7},
    "unknown key": {"more": 1},
}  # fmt: skip
RAW = {
    "empty": "",
    "brackets": "[" * 100_000,
    "objects": '{"a":' * 50_000,
    "infinity": '{"format": 1e400}',
    "not a number": '{"format": NaN}',
    "many digits": '{"format": ' + "9" * 10_000 + "}",
    "no object": "[]",
    "no UTF-8": b"\xff\xfe{}",
    "null": "null",
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_of_other_types_is_refused(given, case):
    config = json.loads((given / "config.json").read_text())
    change = CONFIGS[case]
    if "settings" in change and isinstance(change["settings"], dict):
        change = change | {"settings": config["settings"] | change["settings"]}
    config |= change
    if case == "a context for each of many":
        config["labels"] = config["classnames"]
    (given / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        PromptClassifier.load(given)
    assert "given" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("case", RAW)
@pytest.mark.parametrize("file", ["config.json", "history.json"])
def test_files_that_are_no_json_are_refused(given, file, case):
    content = RAW[case] if isinstance(RAW[case], bytes) else RAW[case].encode()
    (given / file).write_bytes(content)
    if (file, case) == ("history.json", "no object"):
        return  # a history of no epochs
    with pytest.raises(UserError, match="is damaged"):
        PromptClassifier.load(given)


@pytest.mark.parametrize("case", ["nan", "dtype", "shape", "pipe", "cut", "claims"])
def test_prompts_that_are_none_are_refused(given, case):
    file = given / "prompts.safetensors"
    ctx = load_file(file)["ctx"]
    if case == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif case == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif case == "claims":  # a header that speaks of more than there is
        header = json.dumps(
            {"ctx": {"dtype": "F32", "shape": [2**40, 128], "data_offsets": [0, 2**49]}}
        ).encode()
        file.write_bytes(struct.pack("<Q", len(header)) + header)
    else:
        ctx = {"nan": ctx * float("nan"), "dtype": ctx.double(), "shape": ctx[:, :5].contiguous()}[case]
        save_file({"ctx": ctx}, file)
    with pytest.raises(UserError) as error:
        PromptClassifier.load(given)
    assert "\n" not in str(error.value)


LENGTHS = (
    '{"text": [1]}',
    '{"text": 3, "vision": [1]}',
    '{"text": [1.5], "vision": [1]}',
    '{"text": [true], "vision": [1]}',
    '{"text": [1000000000], "vision": [1]}',
    '{"text": [1], "vision": [-1]}',
    '{"text": [1], "vision": [1], "x": 1}',
    *("[]", "null", "7", "", "[" * 10_000),
)


@pytest.mark.parametrize("content", LENGTHS)
def test_lengths_that_are_none(tmp_path, content):
    (tmp_path / "l.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        Lengths.load(str(tmp_path / "l.json"))


def test_a_small_file_makes_no_large_value():
    for text in (BOMB, "[" * 3000, "a: &a [*a]"):
        with pytest.raises(ValueError, match=r"aliases|deep|expected"):
            parse_yaml(text)
    with pytest.raises(ValueError, match="deep"):
        parse_json("[" * 100_000)


RUN = {
    "suite": "toy", "protocol": "few-shot", "model": "toy", "revision": None, "dataset": "d",
    "method": "coop", "settings": {}, "preset": "", "augment": "none", "shots": 1, "seed": 1,
}  # fmt: skip
RECORD = {
    "key": "a", "metrics": {"test": {"accuracy": 1.0}}, "lengths": None, "seconds": 1, "parameters": 1,
    "command": "c", "version": "0", "finished": "f", "run": RUN,
}  # fmt: skip


@pytest.mark.parametrize("key", [*RECORD, *(f"run.{key}" for key in RUN)])
@pytest.mark.parametrize("how", ["missing", "another type"])
def test_records_without_a_field(key, how):
    record = json.loads(json.dumps(RECORD))
    check_records([record])
    part, last = (record["run"], key[4:]) if key.startswith("run.") else (record, key)
    if how == "missing":
        del part[last]
    else:
        part[last] = 1.5 if isinstance(part[last], str) else "x"
    if key == "run.revision" and how == "another type":
        part[last] = 1
    with pytest.raises(UserError, match="record 1 of the results"):
        check_records([record])


@pytest.mark.parametrize("path", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", 7, None])
def test_a_split_that_leaves_its_folder(tmp_path, path):
    rows = [[path, 0, "a"]]
    (tmp_path / "split.json").write_text(json.dumps({"train": rows, "val": [], "test": []}))
    with pytest.raises(UserError, match="is damaged"):
        read_or_make(tmp_path / "split.json", lambda _: None)


# Images.


def png(width: int, height: int) -> bytes:
    """A PNG of one colour, of a thousand bytes whatever its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" * (1 + (width + 7) // 8)) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) (w) file closefile\n%%EOF\n"


def test_images_that_do_harm_are_refused(tmp_path):
    (tmp_path / "long.png").write_bytes(png(400_000, 1))
    (tmp_path / "wide.png").write_bytes(png(30_000, 30_000))
    (tmp_path / "script.jpg").write_bytes(EPS)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, words in (
        ("long.png", "100 times as long as wide"),
        ("wide.png", "megapixels|exceeds limit"),
        ("script.jpg", f"it is no image of {', '.join(FORMATS)}"),
        ("pipe.jpg", "no regular file"),
        ("folder.jpg", "no regular file"),
    ):
        with pytest.raises(UserError, match=words):
            open_image(tmp_path / name)
    for source in (np.zeros((1, 4000, 3), np.uint8), Image.new("L", (4000, 1))):
        with pytest.raises(UserError, match="100 times"):
            open_image(source)


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
