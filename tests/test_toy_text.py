"""The built-in task of texts and its language model."""

from __future__ import annotations

import torch

from vlprompt import data
from vlprompt.engine.backbones.load import BUILT_IN, load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.toy.language import POSITIONS, pretrain_text
from vlprompt.toy.stdlib import LONGEST, PACKAGES, SHORTEST, _split_of, _texts


def test_the_task_s_splits_share_no_module_and_no_text():
    task = data.load("toy:stdlib")
    assert task.texts and task.classnames == PACKAGES
    splits = [task.train, task.val, task.test]
    texts = [{item.image for item in split} for split in splits]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    for split in splits:
        assert {item.label for item in split} == set(range(len(PACKAGES)))
        assert all(SHORTEST <= len(item.image) <= LONGEST for item in split)
    counts = [sum(item.label == k for item in task.train) for k in range(len(PACKAGES))]
    assert min(counts) >= 16
    package = PACKAGES[0]
    test = {text for module, text in _texts(package) if _split_of(package)[module] == "test"}
    assert {item.image for item in task.test if item.label == 0} <= test


def test_its_model_is_small_and_reads_any_text():
    folder = BUILT_IN["toy-text"]
    assert (folder / "model.safetensors").stat().st_size < 3e6 and (folder / "README.md").is_file()
    encoder = Encoder(load_backbone("toy-text"))
    rows = encoder.read_texts(["zwölf 日本 😀", "def f(x): return x"])
    with torch.no_grad():
        assert encoder.encode_text(rows).isfinite().all()


def test_it_can_be_trained_again(tmp_path):
    texts = [
        f"{word} is a word that is written down here, and {word} again" for word in ("one", "two", "six")
    ]
    losses = [
        pretrain_text(tmp_path / name, steps=3, batch_size=2, show=False, texts=texts * 20)
        for name in ("a", "b")
    ]
    assert losses[0] == losses[1]
    one, other = (load_backbone(str(tmp_path / name)) for name in ("a", "b"))
    assert one.digest == other.digest and one.max_positions == POSITIONS
    assert f"{losses[0]:.2f} nats" in (tmp_path / "a" / "README.md").read_text()
