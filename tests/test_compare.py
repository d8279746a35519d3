"""``vlprompt compare``: methods on the user's own images, one engine with ``fit`` and ``bench``."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

from support import toy_encoder, vlprompt, write_photos
from test_bench_report import record
from vlprompt import UserError, data
from vlprompt.benchmark.features import images_digest, shared_rows
from vlprompt.benchmark.own import testable_shots as most_shots
from vlprompt.benchmark.results import read_results
from vlprompt.benchmark.standings import standings, to_take, verdict
from vlprompt.dataset import Dataset, Encoded, Item
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.training.frozen import image_features

COMPARED = ("--methods", "zeroshot,coop", "--seeds", "1", "2", "--shots", 2, "--set", "coop.epochs=2")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of images, that of the results, and what ``--json`` says."""
    folder = tmp_path_factory.mktemp("compare")
    photos, out = write_photos(folder / "photos"), folder / "out"
    assert vlprompt("compare", photos, *COMPARED, "--out", out, "--workers", 1) == 0
    return photos, out


def test_a_number_is_that_of_fit_with_the_same_seed(compared, tmp_path, capsys):
    photos, out = compared
    assert vlprompt("compare", photos, *COMPARED, "--out", out, "--json") == 0  # nothing left to run
    said = json.loads(capsys.readouterr().out)
    assert (said["runs"], said["done"], said["failed"]) == (4, 4, [])
    accuracy = {row["method"]: row["accuracy"] for row in said["methods"]}
    assert vlprompt(*shlex.split(said["take"])[1:-1], tmp_path / "taken", "--json") == 0
    taken = json.loads(capsys.readouterr().out)["test"]["accuracy"]
    assert taken == pytest.approx(accuracy["Zero-shot CLIP"][0])
    words = ["fit", photos, "--method", "coop", "--shots", 2, "--seed", 2, "--epochs", 2]
    assert vlprompt(*words, "--out", tmp_path / "coop", "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"]["accuracy"] == pytest.approx(
        next(values[1] for row, values in accuracy.items() if row.startswith("CoOp"))
    )


def test_its_table_and_its_page_say_what_to_take(compared, capsys):
    photos, out = compared
    assert vlprompt("compare", photos, *COMPARED, "--out", out) == 0
    said = capsys.readouterr().out
    assert "Highest accuracy: " in said and f"vlprompt fit {photos} --method" in said
    assert str(out / "report.html") in said.replace("\n", "")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "calibration error" in page and "learned numbers" in page and "--out my-classifier" in page
    assert len(list((out / "features").glob("*.safetensors"))) == 1  # of all images, for all runs


def test_other_images_are_run_again(compared, capsys):
    photos, out = compared
    words = ["compare", photos, *COMPARED, "--out", out, "--plan", "--json"]
    assert vlprompt(*words) == 0 and json.loads(capsys.readouterr().out)["done"] == 4
    copy = photos.parent / "more"
    write_photos(copy, 8)
    assert vlprompt("compare", copy, *words[2:]) == 0 and json.loads(capsys.readouterr().out)["done"] == 0


def test_known_features_stand_for_the_image(photos):
    dataset = data.few_shot(data.load(str(photos)), 2, 1)
    items = [*dataset.train, *dataset.test]
    features = image_features(toy_encoder(), [item.image for item in items]).numpy()
    blank = np.zeros((32, 32, 3), np.uint8)
    known = [Item(Encoded(blank, row), item.label) for item, row in zip(items, features, strict=True)]
    count = len(dataset.train)
    for method in ("coop", "genpt", "tip"):
        settings = {} if method == "tip" else {"epochs": 1}
        plain = PromptClassifier(method, settings=settings).fit_dataset(dataset)
        blind = PromptClassifier(method, settings=settings)
        blind.fit_dataset(replace(dataset, train=known[:count]))
        expected = plain.predict_proba([item.image for item in dataset.test])
        assert np.allclose(blind.predict_proba([item.image for item in known[count:]]), expected, atol=1e-5)


def test_views_that_are_known_are_drawn_from(photos):
    dataset = data.few_shot(data.load(str(photos)), 2, 1)
    right = image_features(toy_encoder(), [item.image for item in dataset.train]).numpy()
    blank = np.zeros((32, 32, 3), np.uint8)
    seen = [
        Item(Encoded(blank, np.zeros_like(row), row[None].repeat(3, 0)), item.label)
        for item, row in zip(dataset.train, right, strict=True)
    ]
    how = {"settings": {"epochs": 2}, "views": 3, "augment": "crop"}
    blind = PromptClassifier("coop", **how).fit_dataset(replace(dataset, train=seen))
    plain = PromptClassifier("coop", settings={"epochs": 2}).fit_dataset(dataset)  # without augmentation
    test = [item.image for item in dataset.test]
    assert np.allclose(blind.predict_proba(test), plain.predict_proba(test), atol=1e-4)


def test_rows_are_made_once(tmp_path):
    import torch

    made = []

    def make(share: range) -> torch.Tensor:
        made.append(share)
        return torch.arange(share.start, share.stop)[:, None]

    for _ in range(2):
        assert shared_rows(tmp_path, "rows", 7, make, 3).flatten().tolist() == list(range(7))
    assert made == [range(0, 3), range(3, 6), range(6, 7)]


def pool(each: int) -> Dataset:
    return Dataset("pool", ("a", "b"), [Item(np.zeros((2, 2)), k) for k in (0, 1) for _ in range(each)])


@pytest.mark.parametrize(("each", "shots"), [(20, 11), (100, 16), (4, 1), (3, 1), (9, 3)])
def test_shots_leave_images_for_testing(each, shots):
    assert most_shots(pool(each), None) == shots
    sample = data.few_shot(pool(each), shots, 1)
    assert {item.label for item in sample.test} == {0, 1}


@pytest.mark.parametrize(
    ("each", "shots", "says"), [(20, 16, "--shots 15 or fewer"), (2, None, "add images"), (4, 2, "--shots 1")]
)
def test_shots_that_leave_none_are_refused(each, shots, says):
    with pytest.raises(UserError, match=says):
        most_shots(pool(each), shots)


def test_a_digest_is_of_images_classes_and_splits():
    one, other = pool(3), pool(3)
    other.train[0].image[0, 0] = 1
    renamed = replace(one, classnames=("a", "c"))
    moved = replace(one, train=one.train[:-1], test=one.train[-1:])
    assert len({images_digest(d) for d in (one, other, renamed, moved)}) == 4
    assert images_digest(one) == images_digest(pool(3))


def test_what_learns_the_least_within_one_standard_error_is_taken():
    records = [
        record("coop", "cats", value, seed) | {"parameters": 2048}
        for seed, value in enumerate((80.0, 84.0, 88.0), 1)
    ]
    records += [
        record("linear", "cats", value, seed) | {"parameters": 100}
        for seed, value in enumerate((82.0, 82.0, 82.0), 1)
    ]
    records += [record("zeroshot", "cats", 60.0, seed) | {"parameters": 0} for seed in (1, 2, 3)]
    ranked = standings(read_results(records))
    assert [s.results[0].method for s in ranked] == ["coop", "linear", "zeroshot"]
    assert ranked[0].error == pytest.approx(4 / np.sqrt(3))
    assert to_take(ranked).results[0].method == "linear" and "take that" in verdict(ranked)
    assert to_take(ranked[::2]).results[0].method == "coop"
