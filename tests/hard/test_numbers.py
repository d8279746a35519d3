"""Data and settings at the edge of what numbers allow."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forks import Command, left_over
from vlprompt import PromptClassifier, UserError


def test_a_loss_that_becomes_infinite(photos, tmp_path):
    words = ("fit", photos, "--out", tmp_path / "out", "--method", "maple", "--shots", 2, "--epochs", 40)
    command = Command(*words, "--lr", 100, "--momentum", 0.99, said=tmp_path / "said")
    code = command.end()
    assert code in (0, 2)
    if code:
        (line,) = [line for line in command.lines() if line.startswith("vlprompt: ")]
        assert "the loss became" in line and "lower the learning rate" in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_weight_that_overflows_is_never_kept(photos, tmp_path, precision):
    paths = sorted(photos.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    huge = {"epochs": 30, "lr": 100, "momentum": 0.999, "weight_decay": 1e9, "batch_size": 2}
    with pytest.raises(UserError, match="the loss became"):
        PromptClassifier("maple", settings=huge, precision=precision).fit(paths, labels)


@pytest.mark.parametrize("method", ["zeroshot", "coop", "maple", "dpl", "tip", "linear", "genpt"])
def test_images_of_one_colour(method):
    pixels = np.full((12, 32, 32, 3), 127, np.uint8)
    labels = ["a", "b", "c"] * 4
    settings = {} if method in ("zeroshot", "linear") else {"epochs": 2}
    classifier = PromptClassifier(method, settings=settings).fit(pixels, labels)
    probabilities = classifier.predict_proba(pixels)
    assert np.isfinite(probabilities).all() and np.allclose(probabilities, probabilities[:1], atol=1e-5)


@pytest.mark.parametrize("method", ["zeroshot", "coop", "maple", "tip", "linear", "kgcoop"])
def test_classes_with_one_image(method, photos, tmp_path):
    paths = sorted(photos.rglob("0.png"))
    settings = {} if method in ("zeroshot", "linear") else {"epochs": 2}
    classifier = PromptClassifier(method, settings=settings).fit(paths, ["a", "b", "c"])
    classifier.save(tmp_path / "c")
    assert np.array_equal(PromptClassifier.load(tmp_path / "c").predict(paths), classifier.predict(paths))
    with pytest.raises(UserError, match="validation"):
        PromptClassifier("dpl", settings={"search": "alphas", "epochs": 1}).fit(paths, ["a", "b", "c"])


def write_list(folder: Path, names: list[str]) -> Path:
    """A CSV file with two images of each class."""
    Image.new("RGB", (32, 32), "red").save(folder / "red.png")
    Image.new("RGB", (32, 32), "blue").save(folder / "blue.png")
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "split"))
        for name in names:
            rows.writerows((("red.png", name, "train"), ("blue.png", name, "test")))
    return folder / "list.csv"


def test_a_thousand_classes_with_equal_names(tmp_path):
    labels = [
        " ".join("abcdefghijk"[i] + gap for i, gap in enumerate(gaps)) for gaps in product("_ ", repeat=10)
    ]
    data = write_list(tmp_path, [label.replace("_ ", "_") for label in labels[:1000]])
    words = ("fit", data, "--out", tmp_path / "out", "--shots", "None", "--batch-size", 1000, "--epochs", 1)
    command = Command(*words, said=tmp_path / "said")
    assert command.end(300) == 0, command.lines()
    classifier = PromptClassifier.load(tmp_path / "out")
    assert len(classifier.classnames_) == 1000 and not left_over(tmp_path)


@pytest.mark.parametrize(("n_ctx", "code"), [(2, 0), (16, 2)])
def test_class_names_of_70_tokens(tmp_path, n_ctx, code):
    data = write_list(tmp_path, ["red " * 69 + "circle", "blue " * 69 + "circle"])
    words = ("fit", data, "--out", tmp_path / "out", "--shots", "None", "--method", "coop", "--epochs", 1)
    command = Command(*words, "--n-ctx", n_ctx, said=tmp_path / "said")
    assert command.end() == code, command.lines()
    if code:
        assert "77" in command.lines()[-1] and not (tmp_path / "out").exists()
