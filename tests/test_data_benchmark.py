"""The benchmark's data sets, on small trees in each one's real layout."""

import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from conftest import GOLDEN
from vlprompt.cli import main as cli
from vlprompt.data import Dataset, few_shot, load, open_image, subsample
from vlprompt.data.benchmark import BENCHMARKS, check, find_benchmark
from vlprompt.errors import UserError

COUNT = 10
"""Images a class in every tree."""


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "teal").save(file, "JPEG")
    return file.getvalue()


JPEG = jpeg()


def put_images(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JPEG)


def put_lines(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def put_classes(folder: Path, classes: list[str]) -> None:
    put_images(folder, [f"{name}/image_{i:04}.jpg" for name in classes for i in range(COUNT)])


def caltech101(root: Path) -> None:
    classes = ["BACKGROUND_Google", "Faces", "Faces_easy", "airplanes", "wild_cat"]
    put_classes(root / "caltech-101" / "101_ObjectCategories", classes)


def oxfordpets(root: Path) -> None:
    folder = root / "oxford_pets"
    breeds = ["Abyssinian", "Bengal", "american_pit_bull_terrier"]
    put_images(folder / "images", [f"{b}_{i}.jpg" for b in breeds for i in range(COUNT + 4)])
    for file, numbers in {"trainval.txt": range(COUNT), "test.txt": range(COUNT, COUNT + 4)}.items():
        lines = [f"{b}_{i} {k} 1 {k}" for k, b in enumerate(breeds, 1) for i in numbers]
        put_lines(folder / "annotations" / file, lines)


def stanfordcars(root: Path) -> None:
    folder = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"]

    def annotate(images: str, file: Path, count: int) -> None:
        rows = [(f"{i:05}.jpg", i % 2 + 1) for i in range(count)]
        put_images(folder / images, [name for name, _ in rows])
        kinds = [("bbox_x1", object), ("class", object), ("fname", object)]
        records = np.array([[(1.0, float(label), name) for name, label in rows]], dtype=kinds)
        savemat(file, {"annotations": records})

    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    annotate("cars_train", folder / "devkit" / "cars_train_annos.mat", 2 * COUNT)
    annotate("cars_test", folder / "cars_test_annos_withlabels.mat", 6)


def flowers102(root: Path) -> None:
    folder = root / "oxford_flowers"
    labels = [2] * COUNT + [1] * COUNT + [3] * COUNT
    put_images(folder / "jpg", [f"image_{n:05}.jpg" for n in range(1, len(labels) + 1)])
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    names = {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "bird of paradise"}
    (folder / "cat_to_name.json").write_text(json.dumps(names))


def food101(root: Path) -> None:
    put_classes(root / "food-101" / "images", ["apple_pie", "baby_back_ribs", "waffles"])


def fgvcaircraft(root: Path) -> None:
    folder = root / "fgvc_aircraft"
    variants = ["707-320", "F/A-18", "Cessna 172"]
    put_lines(folder / "variants.txt", variants)
    for k, part in enumerate(("train", "val", "test")):
        numbers = {name: range(1000 * k + 100 * v, 1000 * k + 100 * v + 4) for v, name in enumerate(variants)}
        put_lines(
            folder / f"images_variant_{part}.txt",
            [f"{n:07} {name}" for name, images in numbers.items() for n in images],
        )
        put_images(folder / "images", [f"{n:07}.jpg" for images in numbers.values() for n in images])


def sun397(root: Path) -> None:
    folder = root / "sun397"
    places = ["/a/abbey", "/a/airport/indoor", "/b/ball_pit"]
    put_lines(folder / "ClassName.txt", places)
    put_lines(folder / "Training_01.txt", [f"{p}/sun_{i:03}.jpg" for p in places for i in range(COUNT)])
    put_lines(folder / "Testing_01.txt", [f"{p}/sun_{i:03}.jpg" for p in places for i in range(90, 94)])
    images = [f"{p[1:]}/sun_{i:03}.jpg" for p in places for i in (*range(COUNT), *range(90, 94))]
    put_images(folder / "SUN397", images)


def dtd(root: Path) -> None:
    put_classes(root / "dtd" / "images", ["banded", "dotted", "polka-dotted"])
    (root / "dtd" / "images" / "banded" / ".directory").write_text("a hidden file of the release")


def eurosat(root: Path) -> None:
    put_classes(root / "eurosat" / "2750", ["Forest", "SeaLake", "AnnualCrop"])


def ucf101(root: Path) -> None:
    folder = root / "ucf101"
    actions = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "YoYo": "Yo_Yo", "Archery": "Archery"}
    lists = folder / "ucfTrainTestlist"
    put_lines(lists / "classInd.txt", [f"{k} {a}" for k, a in enumerate(actions, 1)])
    train = [f"{a}/v_{a}_g{i:02}_c01.avi {k}" for k, a in enumerate(actions, 1) for i in range(8, 8 + COUNT)]
    put_lines(lists / "trainlist01.txt", train)
    put_lines(lists / "testlist01.txt", [f"{a}/v_{a}_g{i:02}_c01.avi" for a in actions for i in range(4)])
    films = [f"{m}/v_{a}_g{i:02}_c01.jpg" for a, m in actions.items() for i in (*range(4), *range(8, 18))]
    put_images(folder / "UCF-101-midframes", films)


WNIDS = {"n01440764": "tench", "n02012849": "crane", "n03126707": "crane", "n04356056": "sunglasses"}
"""Sorted; the name crane stands for a bird and for a machine."""


def put_classnames(folder: Path) -> None:
    put_lines(folder / "classnames.txt", [f"{wnid} {name}" for wnid, name in WNIDS.items()])


def imagenet(root: Path) -> None:
    folder = root / "imagenet"
    for split, count in {"train": 6, "val": 3}.items():
        images = [f"images/{split}/{w}/{w}_{i}.JPEG" for w in reversed(WNIDS) for i in range(count)]
        put_images(folder, images)
    put_classnames(folder)


def imagenetv2(root: Path) -> None:
    folder = root / "imagenetv2"
    images = [f"{k}/{i:040x}.jpeg" for k in range(len(WNIDS)) for i in range(2)]
    put_images(folder / "imagenetv2-matched-frequency-format-val", images)
    put_classnames(folder)


def put_variant(folder: Path, images: str, wnids: list[str]) -> None:
    put_images(folder / images, [f"{w}/art_{i}.JPEG" for w in wnids for i in range(2)])
    (folder / images / "README.txt").write_text("as released")
    put_classnames(folder)


def imagenet_sketch(root: Path) -> None:
    put_variant(root / "imagenet-sketch", "images", list(WNIDS))


def imagenet_a(root: Path) -> None:
    put_variant(root / "imagenet-adversarial", "imagenet-a", ["n03126707", "n04356056"])


def imagenet_r(root: Path) -> None:
    put_variant(root / "imagenet-rendition", "imagenet-r", ["n02012849", "n04356056"])


TREES = {
    "imagenet": imagenet,
    "caltech101": caltech101,
    "oxfordpets": oxfordpets,
    "stanfordcars": stanfordcars,
    "flowers102": flowers102,
    "food101": food101,
    "fgvcaircraft": fgvcaircraft,
    "sun397": sun397,
    "dtd": dtd,
    "eurosat": eurosat,
    "ucf101": ucf101,
    "imagenetv2": imagenetv2,
    "imagenet-sketch": imagenet_sketch,
    "imagenet-a": imagenet_a,
    "imagenet-r": imagenet_r,
}
MADE = {
    "caltech101": ("face", "airplane", "wild cat"),
    "oxfordpets": ("abyssinian", "bengal", "american pit bull terrier"),
    "stanfordcars": ("2000 AM General Hummer SUV", "2012 Ram C/V Cargo Van Minivan"),
    "flowers102": ("pink primrose", "hard-leaved pocket orchid", "bird of paradise"),
    "food101": ("apple pie", "baby back ribs", "waffles"),
    "sun397": ("abbey", "indoor airport", "ball pit"),
    "dtd": ("banded", "dotted", "polka-dotted"),
    "eurosat": ("Annual Crop Land", "Forest", "Sea or Lake"),
    "ucf101": ("Apply Eye Makeup", "Yo Yo", "Archery"),
}
"""Data sets with a split file, and the class names that CoOp's rule gives their trees."""
OWN_TEST = {"oxfordpets": 4, "stanfordcars": 3, "sun397": 4, "ucf101": 4}
"""Test images a class where the data set has a test split; elsewhere the rule makes one."""


def names_of(dataset: Dataset) -> dict[str, list[str]]:
    return {part: [str(item.image) for item in getattr(dataset, part)] for part in ("train", "val", "test")}


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def test_every_data_set_has_a_tree():
    assert list(TREES) == [spec.name for spec in BENCHMARKS]


@pytest.mark.parametrize("name", TREES)
def test_reads_the_layout_and_its_images(name, tmp_path):
    TREES[name](tmp_path)
    dataset = load(name, tmp_path)
    assert dataset.name == name and dataset.test
    for items in (dataset.train, dataset.val, dataset.test):
        for item in items:
            assert open_image(item.image).size == (8, 6)
        if items:
            assert {item.label for item in items} == set(range(len(dataset.classnames)))


@pytest.mark.parametrize("name", MADE)
def test_makes_a_missing_split_file_by_the_rule(name, tmp_path, caplog):
    TREES[name](tmp_path)
    spec = find_benchmark(name)
    file = tmp_path / spec.folder / spec.split_file
    dataset = load(name, tmp_path)
    assert dataset.classnames == MADE[name]
    sizes = {part: Counter(i.label for i in getattr(dataset, part)) for part in ("train", "val", "test")}
    a_class = (8, 2, OWN_TEST[name]) if name in OWN_TEST else (5, 2, 3)
    for part, size in zip(sizes, a_class, strict=True):
        assert set(sizes[part].values()) == {size}
    every = [path for paths in names_of(dataset).values() for path in paths]
    assert len(set(every)) == len(every)
    assert "CoOp's own file" in caplog.text

    rows = json.loads(file.read_text())
    assert set(rows) == {"train", "val", "test"}
    path, label, classname = rows["train"][0]
    assert (tmp_path / spec.folder / spec.images / path).is_file()
    assert dataset.classnames[label] == classname.replace("_", " ")
    assert [p.name for p in file.parent.iterdir() if p.name.endswith(".part")] == []

    caplog.clear()
    assert load(name, tmp_path) == dataset
    assert not caplog.text
    file.unlink()
    assert load(name, tmp_path) == dataset


def test_made_splits_are_shuffled_within_a_class(tmp_path):
    food101(tmp_path)
    dataset = load("food101", tmp_path)
    of_first = [Path(item.image).name for item in dataset.train if item.label == 0]
    assert of_first != sorted(of_first)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_root_still_gives_the_split(tmp_path):
    dtd(tmp_path)
    (tmp_path / "dtd").chmod(0o555)
    assert load("dtd", tmp_path) == load("dtd", tmp_path)
    (tmp_path / "dtd").chmod(0o755)
    assert not list((tmp_path / "dtd").glob("*.json"))


def test_a_published_split_file_is_read_as_it_is(tmp_path):
    rows = {
        "train": [["wild_cat/image_0009.jpg", 1, "wild_cat"], ["airplanes/image_0000.jpg", 0, "airplane"]],
        "val": [["airplanes/image_0003.jpg", 0, "airplane"]],
        "test": [["wild_cat/image_0001.jpg", 1, "wild_cat"]],
    }
    caltech101(tmp_path)
    (tmp_path / "caltech-101" / "split_zhou_Caltech101.json").write_text(json.dumps(rows))
    dataset = load("Caltech101", tmp_path)
    images = tmp_path / "caltech-101" / "101_ObjectCategories"
    assert dataset.classnames == ("airplane", "wild cat")
    assert [(i.image, i.label) for i in dataset.train] == [(str(images / p), k) for p, k, _ in rows["train"]]
    assert names_of(dataset)["val"] == [str(images / "airplanes/image_0003.jpg")]
    assert dataset.templates == ("a photo of a {}.",)


def test_few_shot_takes_the_images_that_coop_takes(tmp_path):
    golden = json.loads((GOLDEN / "fewshot.json").read_text())
    folder = tmp_path / "caltech-101"
    (folder / "101_ObjectCategories").mkdir(parents=True)
    (folder / "split_zhou_Caltech101.json").write_text(json.dumps(golden["split"]))
    dataset = load("caltech101", tmp_path)
    compared = 0
    for key, expected in golden["expected"].items():
        seed, shots, which = key.split("-")
        ours = subsample(few_shot(dataset, int(shots[5:]), int(seed[4:])), which)
        for part, rows in expected.items():
            images = folder / "101_ObjectCategories"
            found = [
                (str(Path(i.image).relative_to(images)), i.label, ours.classnames[i.label])
                for i in getattr(ours, part)
            ]
            assert found == [(path, label, name.replace("_", " ")) for path, label, name in rows]
            compared += 1
    assert compared > 90


def test_aircraft_keeps_the_order_of_its_lists(tmp_path):
    fgvcaircraft(tmp_path)
    dataset = load("fgvcaircraft", tmp_path)
    assert dataset.classnames == ("707-320", "F/A-18", "Cessna 172")
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == [12, 12, 12]
    assert Path(dataset.val[0].image) == tmp_path / "fgvc_aircraft" / "images" / "0001000.jpg"
    assert [i.label for i in dataset.train] == [0] * 4 + [1] * 4 + [2] * 4


def test_imagenet_classes_go_by_wnid_not_by_name(tmp_path):
    imagenet(tmp_path)
    dataset = load("imagenet", tmp_path)
    assert dataset.classnames == ("tench", "crane", "crane", "sunglasses")
    assert [i.label for i in dataset.train] == [k for k in range(4) for _ in range(6)]
    for item in (*dataset.train, *dataset.test):
        assert Path(item.image).parent.name == list(WNIDS)[item.label]
    assert dataset.val == dataset.test
    chosen = few_shot(dataset, 2, seed=1)
    assert Counter(i.label for i in chosen.train) == dict.fromkeys(range(4), 2)
    assert Counter(i.label for i in chosen.val) == dict.fromkeys(range(4), 2)
    assert chosen.test == dataset.test
    assert subsample(dataset, "new").classnames == ("crane", "sunglasses")


@pytest.mark.parametrize("name", ["imagenetv2", "imagenet-sketch"])
def test_v2_and_sketch_have_imagenets_classes(name, tmp_path):
    TREES[name](tmp_path)
    dataset = load(name, tmp_path)
    assert dataset.classnames == tuple(WNIDS.values())
    assert not dataset.train and not dataset.val
    assert [i.label for i in dataset.test] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_v2_sorts_its_folders_as_numbers(tmp_path):
    folder = tmp_path / "imagenetv2"
    images = folder / "imagenetv2-matched-frequency-format-val"
    put_images(images, [f"{k}/a.jpeg" for k in range(12)])
    put_lines(folder / "classnames.txt", [f"n{k:08} class {k}" for k in range(12)])
    for item in load("imagenetv2", tmp_path).test:
        assert Path(item.image).parent.name == str(item.label)


def test_sketch_labels_are_imagenets_where_folders_are_missing(tmp_path):
    imagenet_sketch(tmp_path)
    shutil.rmtree(tmp_path / "imagenet-sketch" / "images" / "n01440764")
    dataset = load("imagenet-sketch", tmp_path)
    assert len(dataset.classnames) == 4 and {i.label for i in dataset.test} == {1, 2, 3}


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_a_and_r_have_the_classes_of_their_folders(name, tmp_path):
    TREES[name](tmp_path)
    dataset = load(name, tmp_path)
    assert dataset.classnames == ("crane", "sunglasses")
    assert [i.label for i in dataset.test] == [0, 0, 1, 1]


def test_a_variant_without_a_list_takes_imagenets(tmp_path):
    imagenet_a(tmp_path)
    (tmp_path / "imagenet-adversarial" / "classnames.txt").unlink()
    with pytest.raises(UserError, match=r"imagenet-adversarial/classnames.txt' is missing"):
        load("imagenet-a", tmp_path)
    put_classnames(tmp_path / "imagenet")
    assert load("imagenet-a", tmp_path).classnames == ("crane", "sunglasses")


def test_imagenet_validation_images_that_are_not_in_folders(tmp_path):
    imagenet(tmp_path)
    shutil.rmtree(tmp_path / "imagenet" / "images" / "val")
    put_images(tmp_path / "imagenet" / "images" / "val", ["ILSVRC2012_val_00000001.JPEG"])
    with pytest.raises(UserError, match=r"images/val' holds no class folders: put") as error:
        load("imagenet", tmp_path)
    one_line(error)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("imagenet", "imagenet/classnames.txt"),
        ("imagenet", "imagenet/images/train"),
        ("imagenet", "imagenet/images/val"),
        ("caltech101", "caltech-101/101_ObjectCategories"),
        ("oxfordpets", "oxford_pets/annotations/trainval.txt"),
        ("oxfordpets", "oxford_pets/annotations/test.txt"),
        ("stanfordcars", "stanford_cars/devkit/cars_meta.mat"),
        ("stanfordcars", "stanford_cars/devkit/cars_train_annos.mat"),
        ("stanfordcars", "stanford_cars/cars_test_annos_withlabels.mat"),
        ("flowers102", "oxford_flowers/imagelabels.mat"),
        ("flowers102", "oxford_flowers/cat_to_name.json"),
        ("food101", "food-101/images"),
        ("fgvcaircraft", "fgvc_aircraft/variants.txt"),
        ("fgvcaircraft", "fgvc_aircraft/images_variant_val.txt"),
        ("fgvcaircraft", "fgvc_aircraft/images"),
        ("sun397", "sun397/ClassName.txt"),
        ("sun397", "sun397/Training_01.txt"),
        ("dtd", "dtd/images"),
        ("eurosat", "eurosat/2750"),
        ("ucf101", "ucf101/ucfTrainTestlist/classInd.txt"),
        ("ucf101", "ucf101/ucfTrainTestlist/testlist01.txt"),
        ("ucf101", "ucf101/UCF-101-midframes"),
        ("imagenetv2", "imagenetv2/imagenetv2-matched-frequency-format-val"),
        ("imagenet-sketch", "imagenet-sketch/images"),
        ("imagenet-r", "imagenet-rendition/classnames.txt"),
    ],
)
def test_a_missing_file_is_named_with_a_remedy(name, gone, tmp_path):
    TREES[name](tmp_path)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError) as error:
        load(name, tmp_path)
    message = one_line(error)
    assert f"'{path}'" in message
    assert "put" in message or "get it" in message
    if (spec := find_benchmark(name)).split_file and "midframes" not in gone:
        assert spec.split_file in message
    row = next(row for row in check(tmp_path) if row["name"] == name)
    assert row["found"] == "incomplete" and str(path) in row["missing"] and row["published"]


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"train": []}', '{"train": [[1]], "val": [], "test": []}']
)
def test_a_damaged_split_file(content, tmp_path):
    dtd(tmp_path)
    file = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    file.write_text(content)
    with pytest.raises(UserError, match="is damaged") as error:
        load("dtd", tmp_path)
    assert str(file) in one_line(error)
    assert check(tmp_path)[8]["found"] == "incomplete"


def test_a_split_file_with_a_gap_in_its_labels(tmp_path):
    dtd(tmp_path)
    rows = {"train": [["banded/a.jpg", 0, "banded"], ["dotted/a.jpg", 2, "dotted"]], "val": [], "test": []}
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="do not count from 0 to 1"):
        load("dtd", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("oxfordpets", "oxford_pets/annotations/trainval.txt", b"Bengal_1 cat 1 1\n"),
        ("stanfordcars", "stanford_cars/devkit/cars_meta.mat", b"not matlab's"),
        ("stanfordcars", "stanford_cars/devkit/cars_meta.mat", b""),
        ("flowers102", "oxford_flowers/cat_to_name.json", b'{"1": "rose"}'),
        ("sun397", "sun397/ClassName.txt", b"/z/zoo\n"),
        ("ucf101", "ucf101/ucfTrainTestlist/classInd.txt", b"1\n"),
        ("fgvcaircraft", "fgvc_aircraft/variants.txt", b"707-320\n"),
        ("fgvcaircraft", "fgvc_aircraft/variants.txt", b"\xff\xfe\n"),
        ("imagenet", "imagenet/classnames.txt", b"n01440764\n"),
        ("imagenet", "imagenet/classnames.txt", b"n01440764 tench\n"),
        ("imagenetv2", "imagenetv2/classnames.txt", b"n01440764 tench\n"),
    ],
)
def test_damaged_lists(name, file, content, tmp_path):
    TREES[name](tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as error:
        load(name, tmp_path)
    one_line(error)
    assert next(row for row in check(tmp_path) if row["name"] == name)["found"] == "incomplete"


def test_a_class_that_is_too_small_to_divide(tmp_path):
    put_images(tmp_path / "dtd" / "images", ["banded/1.jpg", "banded/2.jpg"])
    with pytest.raises(UserError, match="class 'banded' has 2 images, too few to divide"):
        load("dtd", tmp_path)


def test_names_in_any_case_and_coops_names(tmp_path):
    for name in ("DTD", "dtd", "describable_textures"):
        assert find_benchmark(name).name == "dtd"
    for name in ("oxford_flowers", "OxfordFlowers", "Flowers102", "flowers-102"):
        assert find_benchmark(name).name == "flowers102"
    assert find_benchmark("imagenet_r").folder == "imagenet-rendition"
    assert find_benchmark("fgvc_aircraft").classes == 100
    assert find_benchmark("imagenet-x") is None


def test_load_says_what_is_wrong_with_a_name(tmp_path):
    with pytest.raises(UserError, match="--root"):
        load("food101")
    with pytest.raises(UserError, match=r"'food101' is not under .*food-101.*Food-101 Data Set"):
        load("food101", tmp_path)
    with pytest.raises(UserError, match=r"'no_such' is no folder.*caltech101.*imagenet-r"):
        load("no_such", tmp_path)


def test_load_takes_a_folder_of_the_same_name_without_a_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_classes(Path("dtd"), ["cat", "dog"])
    assert load("dtd").classnames == ("cat", "dog")
    dtd(tmp_path / "root")
    assert load("dtd", tmp_path / "root").name == "dtd"
    assert load("./dtd", tmp_path / "root").classnames == ("cat", "dog")


def test_load_takes_tasks_and_shifts():
    plain, shifted = load("toy:shapes"), load("toy:shapes@sketch")
    assert plain.classnames == shifted.classnames and plain.train == shifted.train
    assert plain.test != shifted.test
    with pytest.raises(UserError, match="unknown shift 'fog'"):
        load("toy:shapes@fog")
    with pytest.raises(UserError, match="unknown task"):
        load("toy:chess")


def row_of(root: Path, name: str) -> dict[str, str]:
    return next(row for row in check(root) if row["name"] == name)


def test_check_of_an_empty_root(tmp_path):
    rows = check(tmp_path)
    assert [row["name"] for row in rows] == list(TREES)
    assert {row["found"] for row in rows} == {"no"}
    assert rows[0]["classes"] == "0/1000" and rows[0]["train"] == "0/1281167" and rows[0]["val"] == "-"
    assert all(row["published"] and row["missing"] for row in rows)
    assert not list(tmp_path.iterdir())


def test_check_counts_what_is_there_and_writes_nothing(tmp_path):
    for tree in TREES.values():
        tree(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    rows = {row["name"]: row for row in check(tmp_path)}
    assert sorted(tmp_path.rglob("*")) == before
    assert {row["found"] for row in rows.values()} == {"incomplete"}
    dtd_row = rows["dtd"]
    assert (dtd_row["classes"], dtd_row["train"], dtd_row["val"], dtd_row["test"]) == (
        "3/47", "15/2820", "6/1128", "9/1692",
    )  # fmt: skip
    assert "split_zhou_DescribableTextures.json" in dtd_row["missing"]
    assert "Describable Textures" in dtd_row["published"]
    assert rows["imagenet"]["train"] == "24/1281167" and rows["imagenet"]["test"] == "12/50000"
    assert rows["imagenet-a"]["test"] == "4/7500" and rows["imagenet-a"]["train"] == "-"


def test_check_names_images_that_are_missing(tmp_path):
    ucf101(tmp_path)
    load("ucf101", tmp_path)
    frames = tmp_path / "ucf101" / "UCF-101-midframes"
    (frames / "Yo_Yo" / "v_YoYo_g02_c01.jpg").unlink()
    shutil.rmtree(frames / "Archery")
    row = row_of(tmp_path, "ucf101")
    assert row["found"] == "incomplete"
    assert row["missing"].startswith("15 images, such as '") and "Archery" in row["missing"]
    assert (row["train"], row["val"], row["test"]) == ("16/7639", "4/1898", "7/3783")


def test_check_says_yes_where_all_is_there(tmp_path):
    folder = tmp_path / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    put_lines(folder / "variants.txt", [f"variant {k}" for k in range(100)])
    number = 0
    for part, count in {"train": 3334, "val": 3333, "test": 3333}.items():
        lines = []
        for k in range(count):
            (folder / "images" / f"{number:07}.jpg").touch()
            lines.append(f"{number:07} variant {k % 100}")
            number += 1
        put_lines(folder / f"images_variant_{part}.txt", lines)
    row = row_of(tmp_path, "fgvcaircraft")
    assert (row["found"], row["missing"], row["published"]) == ("yes", "", "")
    assert (row["classes"], row["train"], row["test"]) == ("100/100", "3334/3334", "3333/3333")


@pytest.mark.parametrize("name", TREES)
def test_check_survives_whatever_is_missing_or_broken(name, tmp_path):
    TREES[name](tmp_path / "whole")
    whole = tmp_path / "whole"
    parts = [p for p in whole.rglob("*") if p.suffix.lower() not in (".jpg", ".jpeg")]
    for number, part in enumerate(parts):
        for broken in ("gone", "file", "folder"):
            root = tmp_path / f"{number}{broken}"
            shutil.copytree(whole, root, copy_function=os.link)
            path = root / part.relative_to(whole)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if broken == "file":
                path.write_bytes(b"\x00\xff")
            if broken == "folder":
                path.mkdir()
            row = row_of(root, name)
            assert row["found"] in ("no", "incomplete")


def test_the_command_prints_the_table(tmp_path, capsys):
    eurosat(tmp_path)
    assert cli.main(["data", "check", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 15 and rows[9]["name"] == "eurosat" and rows[9]["train"] == "15/13500"
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 2
