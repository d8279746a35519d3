"""Own images in folders and CSV files, and few-shot sampling from them."""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlprompt.data import (
    Dataset,
    Item,
    few_shot,
    find_images,
    load,
    open_image,
    read_csv,
    read_folder,
    subsample,
)
from vlprompt.errors import UserError


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING, logger="vlprompt")
    return tmp_path


def put(name: str, colour: str = "teal") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)
    return path


def put_classes(folder: str, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        for k in range(count):
            put(f"{folder}/{name}/{k}.png")


def broken(name: str, content: bytes) -> Path:
    path = put(name)
    path.write_bytes(content)
    return path


def paths(items) -> list[str]:
    return [str(item.image) for item in items]


def test_one_folder_a_class_is_a_pool():
    put_classes("pets", {"sea_otter": 2, "cat": 1})
    put("pets/cat/more/deep.JPG")
    Path("pets/.hidden").mkdir()
    Path("pets/cat/._9.png").write_bytes(b"a shadow file")
    Path("pets/cat/notes.txt").write_text("no image")
    dataset = read_folder("pets")
    assert dataset.name == "pets" and dataset.classnames == ("cat", "sea otter")
    assert [(str(i.image), i.label) for i in dataset.train] == [
        ("pets/cat/0.png", 0), ("pets/cat/more/deep.JPG", 0), ("pets/sea_otter/0.png", 1),
        ("pets/sea_otter/1.png", 1),
    ]  # fmt: skip
    assert not dataset.val and not dataset.test
    assert load("pets") == dataset


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "validation", "TEST")])
def test_folders_of_splits(names):
    for name, count in zip(names, (3, 1, 2), strict=True):
        put_classes(f"data/{name}", {"cat": count, "dog": count})
    dataset = read_folder("data")
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == [6, 2, 4]
    assert dataset.classnames == ("cat", "dog")
    assert few_shot(dataset, None, 1) is dataset


def test_a_class_named_train_alone_is_a_class():
    put_classes("vehicles", {"train": 1, "car": 1})
    assert read_folder("vehicles").classnames == ("car", "train")


def test_a_test_folder_without_images_of_some_class():
    put_classes("data/train", {"cat": 2, "dog": 2})
    put_classes("data/test", {"dog": 1})
    dataset = read_folder("data")
    assert [(str(i.image), i.label) for i in dataset.test] == [("data/test/dog/0.png", 1)]


def test_a_test_class_that_is_not_for_training():
    put_classes("data/train", {"cat": 2, "dog": 2})
    put_classes("data/test", {"dog": 1, "wolf": 1})
    with pytest.raises(UserError, match="class 'wolf' of 'data/test' is not in the training folder"):
        read_folder("data")


def test_no_folder_no_classes_one_class():
    with pytest.raises(UserError, match="image folder 'nowhere' does not exist"):
        read_folder("nowhere")
    put("flat/1.png")
    with pytest.raises(UserError, match="'flat' holds no class folders: put each class's images"):
        read_folder("flat")
    put_classes("single", {"cat": 3})
    with pytest.raises(UserError, match=r"'single' holds one class only \('cat'\): add a folder"):
        read_folder("single")


def test_a_class_without_images_and_one_without_readable_images():
    put_classes("data", {"cat": 2})
    Path("data/dog").mkdir()
    with pytest.raises(UserError, match=r"'data/dog' has no usable image \(there are none\)"):
        read_folder("data")
    broken("data/dog/0.png", b"")
    with pytest.raises(UserError, match=r"'data/dog' has no usable image \(none can be read\)"):
        read_folder("data")


def test_broken_images_are_skipped_and_named(caplog):
    put_classes("data", {"cat": 2, "dog": 2})
    broken("data/cat/empty.png", b"")
    broken("data/cat/text.jpg", b"hello")
    whole = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(whole).save("data/dog/cut.jpg")
    broken("data/dog/cut.jpg", Path("data/dog/cut.jpg").read_bytes()[:900])
    Path("data/dog/folder.png").mkdir()
    assert len(read_folder("data").train) == 4
    for name in ("cat/empty.png", "cat/text.jpg", "dog/cut.jpg", "dog/folder.png"):
        assert f"skipped: image 'data/{name}' cannot be read" in caplog.text
    assert "the file is empty" in caplog.text and "it is no image" in caplog.text


def test_images_of_every_kind_are_kept(caplog):
    put("data/cat/0.png", "red")
    put("data/dog/0.png", "blue")
    Image.new("CMYK", (9, 9)).save("data/cat/cmyk.jpg")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save("data/cat/grey16.png")
    Image.new("P", (9, 9)).save("data/cat/palette.gif")
    Image.new("RGBA", (9, 9)).save("data/cat/clear.webp")
    dataset = read_folder("data")
    assert len(dataset.train) == 6 and not caplog.text
    assert all(open_image(item.image).mode == "RGB" for item in dataset.train)


def test_equal_names_stay_two_classes_with_a_warning(caplog):
    put_classes("data", {"sea otter": 1, "sea_otter": 2, "dog": 1})
    dataset = read_folder("data")
    assert dataset.classnames == ("dog", "sea otter", "sea otter")
    assert Counter(i.label for i in dataset.train) == {0: 1, 1: 1, 2: 2}
    assert "'sea otter', 'sea_otter' have the same class name 'sea otter'" in caplog.text


@pytest.fixture
def leaky():
    """Of four colours, one is trained and tested on, one has two names, one is there twice."""
    for name, colour in {
        "train/cat/a": "red", "train/cat/b": "blue", "train/cat/c": "blue", "train/dog/d": "green",
        "test/cat/e": "red", "test/dog/f": "green", "train/dog/g": "red", "test/dog/h": "white",
    }.items():  # fmt: skip
        put(f"data/{name}.png", colour)
    rows = [f"{p},{p.split('/')[2]},{p.split('/')[1]}" for p in sorted(map(str, Path("data").rglob("*.png")))]
    Path("data.csv").write_text("\n".join(["path,label,split", *rows, rows[5]]))


def test_images_in_two_splits_or_classes_are_counted(leaky, caplog):
    read_folder("data")
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == [
        "2 images of 'data', such as 'data/test/cat/e.png', are in an earlier split, too",
        "1 images of 'data', such as 'data/train/dog/g.png', are in another class, too",
        "1 images of 'data', such as 'data/train/cat/c.png', are there more than once",
    ]


def test_rows_that_stand_twice_are_counted(leaky, caplog):
    read_csv("data.csv")
    assert "2 images of 'data', such as 'data/train/cat/c.png', are there more than once" in caplog.text


def test_images_that_only_look_alike_are_no_copies(caplog):
    put("data/cat/a.bmp", "red")
    put("data/dog/b.bmp", "blue")  # of the same size, as files too
    assert Path("data/cat/a.bmp").stat().st_size == Path("data/dog/b.bmp").stat().st_size
    read_folder("data")
    assert not caplog.text


def test_names_of_any_characters():
    names = ["{}", "{name}", "50% off", "猫", "🐈 cat", 'it\'s "quoted"', "a%sb"]
    put_classes("data", dict.fromkeys(names, 1))
    dataset = read_folder("data")
    assert dataset.classnames == tuple(sorted(names))
    assert len(dataset.train) == len(names)


def test_names_of_any_characters_in_a_csv_file():
    names = ["{}", "🐈 cat", "with, comma", 'with "quotes"', "sea_otter"]
    for k in range(len(names)):
        put(f"{k}.png")
    quoted = [name.replace('"', '""') for name in names]
    Path("data.csv").write_text("path,label\n" + "".join(f'{k}.png,"{q}"\n' for k, q in enumerate(quoted)))
    assert set(read_csv("data.csv").classnames) == {*names[:4], "sea otter"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_may_not_be_read():
    put_classes("data", {"cat": 1, "dog": 1})
    try:
        Path("data/dog").chmod(0)
        with pytest.raises(UserError, match="'data/dog' cannot be read: change its permissions"):
            read_folder("data")
        Path("data").chmod(0)
        with pytest.raises(UserError, match="'data' cannot be read: change its permissions"):
            read_folder("data")
    finally:
        Path("data").chmod(0o755)
        Path("data/dog").chmod(0o755)


def test_csv_with_and_without_splits(tree):
    for k in range(6):
        put(f"lists/images/{k}.png")
    put("elsewhere.png")
    rows = [
        f"images/{k}.png,{'cat' if k % 2 else 'dog'},{s}"
        for k, s in enumerate(["train"] * 2 + ["val"] * 2 + ["test"] * 2)
    ]
    rows += [f"{tree}/elsewhere.png,cat,"]
    file = Path("lists/pets.csv")
    file.write_text("\ufeffpath,label,split\n" + "\n".join(rows))
    dataset = load("lists/pets.csv")
    assert dataset.name == "pets" and dataset.classnames == ("cat", "dog")
    assert paths(dataset.train) == ["lists/images/0.png", "lists/images/1.png", f"{tree}/elsewhere.png"]
    assert [i.label for i in dataset.train] == [1, 0, 0]
    assert paths(dataset.test) == ["lists/images/4.png", "lists/images/5.png"]
    file.write_text("label,path\ncat,images/0.png\ndog,images/1.png\n")
    pool = read_csv(file)
    assert len(pool.train) == 2 and not pool.val and not pool.test


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has the columns none: name them path,label"),
        (b"file,class\na.png,cat\n", "has the columns file, class: name them"),
        (b"path,label\na.png,cat\n,dog\n", "line 3: path or label is empty"),
        (b"path,label\na.png,cat\nb.png\n", "line 3: path or label is empty"),
        (b"path,label,split\na.png,cat,train\nb.png,dog,trian\n", "line 3: split 'trian' is none of"),
        (b"path,label\na.png,cat\nb.png,cat\n", "names 1 class: it needs two or more"),
        (b"path,label\n", "names 0 class"),
        (b"path,label\na.png,cat\ngone.png,dog\n", "class 'dog' of 'data.csv' has no readable"),
        (b"path,label,split\na.png,cat,\nb.png,dog,test\n", "class 'dog' of 'data.csv' has no readable"),
        (b"path,label\n\xff\xfe.png,cat\n", "cannot be read as CSV .*save it as UTF-8 text"),
    ],
)  # fmt: skip
def test_csv_errors_name_the_place(content, message):
    put("a.png")
    put("b.png")
    Path("data.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load("data.csv")
    assert "'data.csv'" in str(error.value) and "\n" not in str(error.value)


def test_a_line_number_counts_the_lines_of_the_file():
    put("a.png")
    Path("data.csv").write_text('path,label\na.png,"two\nlines"\n\na.png,\n')
    with pytest.raises(UserError, match="line 5: path or label is empty"):
        read_csv("data.csv")


def test_a_missing_csv_file():
    with pytest.raises(UserError, match=r"CSV file 'gone\.csv' does not exist: check the path"):
        load("gone.csv")


def test_csv_names_images_that_are_missing(caplog):
    put("a.png")
    put("b.png")
    Path("data.csv").write_text("path,label\na.png,cat\nb.png,dog\ngone.png,dog\n")
    assert len(read_csv("data.csv").train) == 2
    assert "skipped: image 'gone.png' does not exist" in caplog.text


def test_find_images_by_file_folder_and_pattern():
    for name in ("photos/b.png", "photos/a.jpg", "photos/deep/c.gif", "photos/.hidden.png", "d.webp"):
        put(name)
    Path("photos/notes.txt").write_text("no image")
    found = find_images(["d.webp", "photos", "photos/*.png"])
    assert list(map(str, found)) == [
        "d.webp",
        "photos/a.jpg",
        "photos/b.png",
        "photos/deep/c.gif",
        "photos/b.png",
    ]
    assert find_images(["**/c.gif"]) == [Path("photos/deep/c.gif")]
    put("odd[1].png")
    assert find_images(["odd[1].png"]) == [Path("odd[1].png")]
    for wrong in ("*.bmp", "nowhere", "photos/none/*"):
        with pytest.raises(UserError, match="is no image, no folder with images and no pattern"):
            find_images([wrong])


def pool(counts: dict[str, int]) -> Dataset:
    items = [
        Item(f"{name}/{k}.png", label) for label, (name, n) in enumerate(counts.items()) for k in range(n)
    ]
    return Dataset("pool", tuple(counts), items)


def test_a_pool_is_divided_without_overlap():
    dataset = pool({"cat": 12, "dog": 9})
    chosen = few_shot(dataset, 6, seed=1)
    sizes = [Counter(i.label for i in part) for part in (chosen.train, chosen.val, chosen.test)]
    assert sizes == [{0: 6, 1: 6}, {0: 4, 1: 3}, {0: 2}]
    every = paths([*chosen.train, *chosen.val, *chosen.test])
    assert sorted(every) == sorted(paths(dataset.train))
    assert few_shot(dataset, 6, seed=1) == chosen
    assert few_shot(dataset, 6, seed=2) != chosen


def test_classes_without_an_image_left_for_testing_are_counted(caplog):
    few_shot(pool({"cat": 20, "dog": 21}), 16, seed=1)
    assert "1 of 2 classes of 'pool' have no image left for testing after 16 shots" in caplog.text
    caplog.clear()
    few_shot(pool({"cat": 21, "dog": 21}), 16, seed=1)
    assert not caplog.text


def test_a_pool_keeps_images_that_are_listed_twice():
    items = [Item("a.png", 0)] * 3 + [Item("b.png", 1), Item("c.png", 1)]
    chosen = few_shot(Dataset("twice", ("x", "y"), [Item(*item) for item in items]), 1, seed=1)
    assert len(chosen.train) + len(chosen.val) + len(chosen.test) == 5


def test_more_shots_than_images():
    dataset = pool({"cat": 12, "dog": 3})
    with pytest.raises(
        UserError, match=r"class 'dog' of 'pool' has 3 training images, 4 shots .* --shots 3 or more"
    ):
        few_shot(dataset, 4, seed=1)
    split = Dataset("split", dataset.classnames, dataset.train, dataset.train[:13], dataset.train[:1])
    chosen = few_shot(split, 4, seed=1)
    assert Counter(i.label for i in chosen.train) == {0: 4, 1: 3}
    assert Counter(i.label for i in chosen.val) == {0: 4, 1: 1}
    assert chosen.test == split.test
    with pytest.raises(UserError, match="class 'dog'"):
        few_shot(split, 4, seed=1, strict=True)


@pytest.mark.parametrize("shots", [0, -1])
def test_no_shots(shots):
    with pytest.raises(UserError, match=f"shots {shots}: give 1 or more"):
        few_shot(pool({"cat": 2, "dog": 2}), shots, seed=1)


def test_a_pool_needs_shots():
    with pytest.raises(UserError, match="'pool' is not split into training and test images: give --shots"):
        few_shot(pool({"cat": 2, "dog": 2}), None, seed=1)


def test_base_and_new_classes():
    dataset = few_shot(pool({"a": 9, "b": 9, "c": 9}), 4, seed=1)
    base, new = subsample(dataset, "base"), subsample(dataset, "new")
    assert subsample(dataset, "all") is dataset
    assert base.classnames == ("a", "b") and new.classnames == ("c",)
    assert {i.label for i in base.train} == {0, 1} and {i.label for i in new.test} == {0}
    assert all(str(i.image).startswith("c/") for i in (*new.train, *new.val, *new.test))
    assert len(base.test) + len(new.test) == len(dataset.test)
