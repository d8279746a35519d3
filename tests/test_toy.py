"""The toy world: the same pictures everywhere, tasks apart from each other, and a backbone from nothing."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlprompt import data
from vlprompt.data import open_image
from vlprompt.engine.backbones.load import BUILT_IN, load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.toy.drawing import SIDE
from vlprompt.toy.pictures import picture
from vlprompt.toy.pretrain import pretrain
from vlprompt.toy.tasks import SHIFTS, TASKS, load_task

RENDERED = [name for name in TASKS if name != "digits"]


def digest(images) -> str:
    return hashlib.sha256(b"".join(np.asarray(i).tobytes() for i in images)).hexdigest()[:16]


# Pictures.


def test_a_seed_draws_the_same_pictures_and_captions():
    first, again = [[picture(3, i) for i in range(40)] for _ in range(2)]
    assert digest(p for p, _ in first) == digest(p for p, _ in again)
    assert [words for _, words in first] == [words for _, words in again]
    assert digest(p for p, _ in first) != digest(picture(4, i)[0] for i in range(40))
    assert all(p.size == (SIDE, SIDE) and p.mode == "RGB" for p, _ in first)
    assert all(words.endswith(".") and "  " not in words and "{" not in words for _, words in first)


# Tasks.


def test_there_are_eleven_tasks():
    assert len(TASKS) == len(set(TASKS)) == 11
    for name in TASKS:
        assert data.load(f"toy:{name}").name == f"toy:{name}"


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_ten_classes_or_more_and_templates(name):
    task = load_task(name)
    assert 10 <= len(task.classnames) == len(set(task.classnames))
    assert task.templates and all(template.count("{}") == 1 for template in task.templates)
    for items in filter(None, (task.train, task.val, task.test)):
        assert {item.label for item in items} == set(range(len(task.classnames)))


@pytest.mark.parametrize("name", RENDERED)
def test_splits_of_a_task_share_no_picture(name):
    task = load_task(name)
    assert min(Counter(item.label for item in task.train).values()) >= 16
    assert min(Counter(item.label for item in task.val).values()) >= 4
    assert len(task.test) >= 400
    few = {s: [i for i in getattr(task, s) if i.label == 0][:6] for s in ("train", "val", "test")}
    pictures = [open_image(item.image).tobytes() for items in few.values() for item in items]
    assert len(set(pictures)) == len(pictures) == 18
    again = load_task(name)
    assert open_image(again.val[0].image).tobytes() == pictures[6]


def test_digits_are_a_pool_of_real_pictures():
    task = load_task("digits")
    assert len(task.train) == 1797 and not task.val and not task.test
    split = data.few_shot(task, 16, 1, strict=True)
    parts = [{id(item.image) for item in items} for items in (split.train, split.val, split.test)]
    assert [len(p) for p in parts] == [160, 40, 1597]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


@pytest.mark.parametrize("name", ["shapes", "directions", "letters"])
def test_shifts_change_the_test_pictures_and_nothing_else(name):
    plain = load_task(name)
    pictures = {None: plain} | {shift: load_task(name, shift) for shift in SHIFTS}
    assert len(SHIFTS) == 4
    drawn = {s: digest(open_image(i.image) for i in task.test[:5]) for s, task in pictures.items()}
    assert len(set(drawn.values())) == 5
    for shifted in pictures.values():
        assert shifted.classnames == plain.classnames
        assert [i.label for i in shifted.test] == [i.label for i in plain.test]
        assert open_image(shifted.train[0].image).tobytes() == open_image(plain.train[0].image).tobytes()


def test_an_unknown_task_and_an_unknown_shift_are_answered_with_the_list():
    with pytest.raises(UserError, match=r"unknown task 'toy:shape': there are toy:shapes, .*toy:digits"):
        data.load("toy:shape")
    with pytest.raises(UserError, match="unknown shift 'fog': there are sketch, "):
        load_task("shapes", "fog")


# The backbone.


def test_the_committed_weights_are_small_and_in_half_precision():
    weights = BUILT_IN["toy"] / "model.safetensors"
    assert weights.stat().st_size < 5e6
    assert {t.dtype for t in load_file(weights).values()} == {torch.float16}
    assert sum(p.stat().st_size for p in BUILT_IN["toy"].iterdir()) < 6e6
    assert not [p for p in BUILT_IN["toy"].iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    assert (BUILT_IN["toy"] / "README.md").is_file()
    assert all(t.isfinite().all() for t in load_file(weights).values())


@pytest.mark.parametrize(
    "text", ["", "a cat", "A CAT", "crêpe 日本 😀", "\x00\n\t", "{}", "ＦＵＬＬ", "Ω≈ç√", "<end>", "a" * 30]
)
def test_the_tokenizer_encodes_any_text(text):
    encoder = Encoder(load_backbone("toy"))
    tokenizer = encoder.backbone.tokenizer
    (row,) = encoder.tokenize([text])
    assert row[0] == tokenizer.bos_token_id and row[-1] == tokenizer.eos_token_id
    assert max(row) < encoder.backbone.model.config.text_config.vocab_size
    assert tokenizer.unk_token_id not in row
    with torch.no_grad():
        assert encoder.encode_text([row]).isfinite().all()


def test_the_tokenizer_keeps_the_text():
    tokenizer = load_backbone("toy").tokenizer
    for text in ("a photo of a red star.", "crêpe 日本 😀"):
        ids = tokenizer([text])["input_ids"][0]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


@pytest.mark.parametrize(
    ("size", "widths", "in_card"), [("toy", (4, 128, 160), "float32"), ("toy-deep", (12, 64, 96), "bfloat16")]
)
def test_pretraining_writes_a_folder_that_loads(tmp_path, size, widths, in_card):
    few = {"pictures": 64, "epochs": 2, "batch_size": 16, "device": "cpu", "show": False}
    assert np.isfinite(pretrain(tmp_path / "a", size, **few))
    assert not list(tmp_path.glob("*.part"))
    loaded = load_backbone(str(tmp_path / "a"))
    encoder = Encoder(loaded)
    with torch.no_grad():
        assert encoder.encode_text(encoder.tokenize(["a red star"])).isfinite().all()
    files = {p.name for p in (tmp_path / "a").iterdir()}
    assert files >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    }
    card = (tmp_path / "a" / "README.md").read_text()
    assert (
        "64 rendered pictures" in " ".join(card.split())
        and in_card in card
        and f"--size {size} --seed 0" in card
    )
    assert (len(loaded.text_layers), loaded.text_width, loaded.vision_width) == widths
    assert len(loaded.vision_layers) == widths[0] and loaded.joint_width == 96
    if size == "toy":
        ours, theirs = [json.loads((f / "config.json").read_text()) for f in (tmp_path / "a", BUILT_IN[size])]
        assert ours["vision_config"] == theirs["vision_config"]


def test_pretraining_refuses_before_it_begins(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match="photos' exists and is no backbone of ours: it was not made"):
        pretrain(tmp_path / "photos")
    with pytest.raises(UserError, match="unknown size 'huge': there are toy, toy-deep"):
        pretrain(tmp_path / "new", "huge")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
