"""The protocols on small folders of images: what is trained, what is tested, the same numbers every time."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from vlprompt import data
from vlprompt.benchmark.protocols import Cell, preset_of, run_cell
from vlprompt.benchmark.suites import OWN, SUITES, Suite
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import all_methods
from vlprompt.methods.lengths import Lengths

COLOURS = {
    "red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200),
    "white": (240, 240, 240), "black": (15, 15, 15),
}  # fmt: skip
TRAIN, TEST = 3, 4


def draw(folder, names, seed: int) -> str:
    """A folder with train/ and test/ of noisy pictures in these colours."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in names:
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                noise = rng.integers(-60, 60, (32, 32, 3))
                pixels = (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return str(folder)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> list[str]:
    """Three data sets, of which a suite of this test's own is made."""
    names = list(COLOURS)
    made = [
        draw(tmp_path / n, c, s) for s, (n, c) in enumerate([("a", names), ("b", names[1:4]), ("c", names)])
    ]
    suite = Suite(
        datasets=(made[0], made[1]), source=made[0], shifts={"other": made[2]}, augment="none", seconds=1.0
    )
    monkeypatch.setitem(SUITES, "small", suite)
    return made


def cell(folders, protocol: str, method: str = "zeroshot", **changes) -> Cell:
    options = {"suite": "small", "dataset": folders[0], "shots": 2} | changes
    return Cell(protocol=protocol, method=method, **options)


def zeroshot(folder: str, which: str = "all") -> dict:
    """Zero-shot CLIP measured by hand."""
    dataset = data.subsample(data.load(folder), which)
    return PromptClassifier("zeroshot", augment="none").fit_dataset(dataset).evaluate(dataset.test)


def test_few_shot_record(folders):
    record = run_cell(cell(folders, "few-shot", "coop", settings={"epochs": 2, "n_ctx": 3}, command="again"))
    assert json.loads(json.dumps(record)) == record
    canonical = json.dumps(record["run"], sort_keys=True, separators=(",", ":"))
    assert record["key"] == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert record["metrics"]["test"]["n"] == TEST * 5
    assert record["history"]["train"]["epochs"] == 2
    assert record["parameters"] == 3 * 128
    assert record["command"] == "again"
    assert record["lengths"] is None


def same(ours, theirs):
    """A run uses one thread and the direct way all of them, so sums differ in their last bits."""
    assert ours.keys() == theirs.keys()
    for split, measured in theirs.items():
        assert ours[split] == pytest.approx(measured, rel=1e-5)


def test_base_to_new(folders):
    metrics = run_cell(cell(folders, "base-to-new"))["metrics"]
    same(metrics, {"base": zeroshot(folders[0], "base"), "new": zeroshot(folders[0], "new")})
    assert [m["n"] for m in metrics.values()] == [TEST * 3, TEST * 2]


def test_base_to_new_trains_on_base_only(folders):
    record = run_cell(cell(folders, "base-to-new", "coop", settings={"epochs": 1, "class_specific": False}))
    assert [m["n"] for m in record["metrics"].values()] == [TEST * 3, TEST * 2]
    assert record["history"]["train"]["first_loss"] == pytest.approx(np.log(3), abs=1.0)


def test_cross_dataset(folders):
    metrics = run_cell(cell(folders, "cross-dataset"))["metrics"]
    same(metrics, {"source": zeroshot(folders[0]), folders[1]: zeroshot(folders[1])})


def test_domain(folders):
    metrics = run_cell(cell(folders, "domain"))["metrics"]
    same(metrics, {"test": zeroshot(folders[0]), "other": zeroshot(folders[2])})


def test_dpl_keeps_its_lengths(folders):
    settings = {"epochs": 1, "search_epochs": 1, "batch_size": 4, "text_max": 2, "vision_max": 2}
    record = run_cell(cell(folders, "few-shot", "dpl", settings=settings, shots=3))
    found = Lengths(record["lengths"]["text"], record["lengths"]["vision"])
    assert len(found.text) == len(found.vision) == 4 and found.total == 5  # a third of 16
    assert set(record["history"]) == {"train"}, "the search is part of training"


def test_other_classes_bring_their_templates():
    images = [np.full((32, 32, 3), shade, np.uint8) for shade in (10, 120, 240)]
    dataset = data.Dataset("x", ("red", "blue"), [data.Item(images[0], 0), data.Item(images[1], 1)])
    other = dataclasses.replace(
        dataset, classnames=("circle", "arrow", "letter"), templates=("the {}.", "a drawing of a {}.")
    )
    moved = PromptClassifier("zeroshot").fit_dataset(dataset).set_classes(other.classnames, other.templates)
    fresh = PromptClassifier("zeroshot").fit_dataset(other)
    np.testing.assert_array_equal(moved.predict_proba(images), fresh.predict_proba(images))


@pytest.mark.parametrize("method", ["coop", "linear"])
def test_the_same_numbers_every_time_on_any_number_of_threads(folders, method):
    settings = {"epochs": 2} if method == "coop" else {}
    records = []
    for threads in (1, 1, 3):
        torch.set_num_threads(threads)
        records.append(run_cell(cell(folders, "few-shot", method, settings=settings)))
        assert torch.get_num_threads() == threads
    assert records[0]["metrics"] == records[1]["metrics"] == records[2]["metrics"]
    assert records[0]["history"] == records[1]["history"] == records[2]["history"]


def test_the_key_is_of_what_decides_the_numbers(folders):
    first = cell(folders, "few-shot")
    for same in ({"command": "x"}, {"root": "elsewhere"}):
        assert dataclasses.replace(first, **same).key == first.key
    for other in ({"seed": 2}, {"settings": {"ensemble": False}}, {"revision": "1"}, {"own_method": "1"}):
        assert dataclasses.replace(first, **other).key != first.key


def test_a_changed_default_of_a_method_changes_the_key(folders, monkeypatch):
    """Otherwise runs with the former default would count as done."""
    kind = all_methods()["coop"]

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(kind.Settings):
        n_ctx: int = 7

    first = cell(folders, "few-shot", "coop")
    before = first.key
    monkeypatch.setattr(kind, "Settings", Later)
    assert first.key != before


def test_presets_follow_the_protocol():
    presets = all_methods()["promptsrc"].presets
    assert preset_of("few-shot", presets) == "few-shot"
    assert preset_of("base-to-new", presets) == ""
    assert preset_of("domain", presets) == preset_of("cross-dataset", presets) == "cross-dataset"


def test_settings_of_a_suite():
    toy = SUITES["toy"]
    assert toy.settings_for("dpl+kgcoop", "shapes") == toy.settings_for("dpl", "shapes") != {}
    benchmark = SUITES["benchmark"]
    assert benchmark.settings_for("coop", "imagenet") == {"epochs": 50}
    assert benchmark.settings_for("coop", "dtd") == {}


def test_what_is_added_brings_its_settings_of_a_data_set():
    benchmark, toy = SUITES["benchmark"], SUITES["toy"]
    assert benchmark.settings_for("maple+atprompt", "dtd") == {"attributes": ("pattern", "color", "design")}
    assert benchmark.settings_for("atprompt+kgcoop", "sun397") == {"attributes": ("function",)}
    assert benchmark.settings_for("mmrl", "imagenet") == {"batch_size": 32, "epochs": 5}
    assert benchmark.settings_for("mmrl", "imagenet", "cross-dataset")["epochs"] == 1
    assert toy.settings_for("dpl+mmrl", "shapes") == toy.settings_for("dpl", "shapes") | {"start": 3}


@pytest.mark.parametrize("name", sorted(SUITES.keys() - {OWN}))
def test_suites_name_data_sets_and_settings_that_exist(name):
    suite = SUITES[name]
    assert suite.source in suite.datasets
    known = {b.name for b in data.benchmark.BENCHMARKS}
    for dataset in (*(suite.prefix + d for d in suite.datasets), *suite.shifts.values()):
        assert dataset in known if suite.needs_root else data.load(dataset).train
    for method, settings in suite.settings.items():
        fields = {f.name for f in dataclasses.fields(all_methods()[method.split("@")[0]].Settings)}
        assert settings.keys() <= fields
