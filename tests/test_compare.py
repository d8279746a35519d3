"""``vlprompt compare``: methods on the user's own images, one engine with ``fit`` and ``bench``."""

import json
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest

from support import vlprompt, write_clip, write_photos
from test_bench_report import record
from test_frozen import counted
from vlprompt import UserError, data
from vlprompt.benchmark.own import choice_of, encode_once
from vlprompt.benchmark.own import testable_shots as most_shots
from vlprompt.benchmark.plan import make_plan
from vlprompt.benchmark.protocols import run_cell
from vlprompt.benchmark.results import read_results
from vlprompt.benchmark.standings import standings, to_take, verdict
from vlprompt.data.identity import dataset_digest
from vlprompt.dataset import Dataset, Item
from vlprompt.engine import features

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


def test_other_images_are_run_again(compared, capsys):
    photos, out = compared
    words = ["compare", photos, *COMPARED, "--out", out, "--plan", "--json"]
    assert vlprompt(*words) == 0 and json.loads(capsys.readouterr().out)["done"] == 4
    copy = photos.parent / "more"
    write_photos(copy, 8)
    assert vlprompt("compare", copy, *words[2:]) == 0 and json.loads(capsys.readouterr().out)["done"] == 0


def test_features_are_computed_once_for_all_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "WORTH", 1)  # small backbones count, too
    monkeypatch.setenv("VLPROMPT_CACHE", str(tmp_path / "cache"))
    photos, clip = write_photos(tmp_path / "photos", 40), str(write_clip(tmp_path / "clip"))
    how = {"methods": ("zeroshot", "coop"), "seeds": (1, 2), "changes": ("coop.epochs=1",), "views": 2}
    plan = make_plan(choice_of(str(photos), **how, model=clip), [], 1)
    assert [(cell.method, cell.views) for cell in plan.missing] == [("coop", 2)] * 2 + [("zeroshot", 0)] * 2
    encode_once(plan)
    with counted() as calls:
        for cell in plan.missing:
            run_cell(cell)
    assert calls == []


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
    assert len({dataset_digest(d) for d in (one, other, renamed, moved)}) == 4
    assert dataset_digest(one) == dataset_digest(pool(3))


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


def test_what_is_odd_about_the_images_is_said_once(tmp_path, capfd):
    """By the command, not again where it reads them anew and by each of its workers."""
    photos = write_photos(tmp_path / "photos")
    shutil.copy(photos / "green" / "0.png", photos / "green" / "7.png")
    words = ("--methods", "zeroshot", "--seeds", 1, 2, "--shots", 2, "--workers", 2)
    assert vlprompt("compare", photos, *words, "--out", tmp_path / "out") == 0
    assert capfd.readouterr().err.count("are there more than once") == 1
