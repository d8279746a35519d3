"""Data sets of the Hugging Face hub, from local folders, without a network."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from vlprompt.data import few_shot, load, open_image
from vlprompt.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE = png("red"), png("blue")


def put(folder: Path, split: str, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / split / name).mkdir(parents=True)
        for k in range(count):
            (folder / split / name / f"{k}.png").write_bytes(RED if name == "cat" else BLUE)


def table(labels, images=None, names=("cat", "sea_otter"), label="label", image="image"):
    images = images or [RED if k == 0 else BLUE for k in labels]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
    rows = {image: [{"bytes": content, "path": None} for content in images], label: labels}
    return datasets.Dataset.from_dict(rows, features=features)


def save(folder: Path, **splits) -> str:
    """Parquet files, as the hub holds them, with what the features are."""
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return f"hub:{folder}"


def colours(items):
    return [open_image(item.image).getpixel((0, 0)) for item in items]


def test_an_image_folder(tmp_path):
    put(tmp_path / "pets", "train", {"cat": 3, "sea_otter": 3})
    put(tmp_path / "pets", "validation", {"cat": 1, "sea_otter": 1})
    put(tmp_path / "pets", "test", {"cat": 2, "sea_otter": 2})
    dataset = load(f"hub:{tmp_path / 'pets'}")
    assert dataset.classnames == ("cat", "sea otter")
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == [6, 2, 4]
    for items in (dataset.train, dataset.val, dataset.test):
        assert colours(items) == [(255, 0, 0) if i.label == 0 else (0, 0, 255) for i in items]
    assert len(few_shot(dataset, 2, seed=1).train) == 4


def test_parquet_files_with_columns_of_other_names(tmp_path):
    rows = table([0, 1, 1], label="fine_label", image="img")
    rows = rows.add_column("id", [7, 8, 9])
    dataset = load(save(tmp_path / "cifar", train=rows, test=rows))
    assert dataset.classnames == ("cat", "sea otter")
    assert [i.label for i in dataset.train] == [0, 1, 1]
    assert colours(dataset.test) == [(255, 0, 0), (0, 0, 255), (0, 0, 255)]


def test_the_label_column_is_taken_among_several_of_classes(tmp_path):
    rows = table([0, 1])
    coarse = datasets.ClassLabel(names=["animal", "thing"])
    rows = rows.add_column("coarse_label", [1, 1]).cast_column("coarse_label", coarse)
    rows = rows.select_columns(["coarse_label", "image", "label"])
    dataset = load(save(tmp_path / "two", train=rows))
    assert dataset.classnames == ("cat", "sea otter") and [i.label for i in dataset.train] == [0, 1]


def test_what_save_to_disk_wrote(tmp_path):
    table([0, 1, 0]).save_to_disk(tmp_path / "one")
    single = load(f"hub:{tmp_path / 'one'}")
    assert [i.label for i in single.train] == [0, 1, 0] and not single.val and not single.test
    datasets.DatasetDict({"train": table([0, 1]), "test": table([1])}).save_to_disk(tmp_path / "both")
    assert [i.label for i in load(f"hub:{tmp_path / 'both'}").test] == [1]


def test_validation_images_are_for_testing_where_there_is_no_test(tmp_path):
    dataset = load(save(tmp_path / "food", train=table([0, 1, 0]), validation=table([1, 0])))
    assert not dataset.val and [i.label for i in dataset.test] == [1, 0]
    hidden = table([-1, -1, None], images=[RED] * 3)
    dataset = load(save(tmp_path / "hidden", train=table([0, 1]), validation=table([1]), test=hidden))
    assert not dataset.val and [i.label for i in dataset.test] == [1]


def test_a_single_split_is_a_pool(tmp_path):
    dataset = load(save(tmp_path / "pool", test=table([0] * 4 + [1] * 4)))
    chosen = few_shot(dataset, 2, seed=1)
    assert [len(chosen.train), len(chosen.val), len(chosen.test)] == [4, 4, 0]


def test_a_damaged_image_is_named(tmp_path):
    dataset = load(save(tmp_path / "broken", train=table([0, 1, 1], images=[RED, BLUE, b"no image"])))
    with pytest.raises(UserError, match=r"image 2 of 'hub:.*broken' cannot be read \(it is no image of .*\)"):
        open_image(dataset.train[2].image)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_column_of_classes_or_of_images(tmp_path):
    texts = datasets.Dataset.from_dict({"image": ["a", "b"], "text": ["x", "y"]})
    with pytest.raises(UserError, match="has no column of images among image, text: choose") as error:
        load(save(tmp_path / "texts", train=texts))
    one_line(error)
    captions = table([0, 1]).remove_columns("label").add_column("label", ["a cat", "an otter"])
    with pytest.raises(UserError, match=r"no column of classes \(ClassLabel\) among image, label"):
        load(save(tmp_path / "captions", train=captions))


def test_no_labelled_and_no_training_images(tmp_path):
    with pytest.raises(UserError, match="has no labelled training image"):
        load(save(tmp_path / "hidden", train=table([-1, -1], images=[RED, RED])))
    folder = save(tmp_path / "odd", test=table([0]), validation=table([1]))
    with pytest.raises(UserError, match=r"has the splits .* and none named train"):
        load(folder)


def test_a_name_that_is_not_there_and_no_network():
    with pytest.raises(
        UserError, match=r"'hub:someone/no-such-data' cannot be loaded \(.*\): check the name"
    ) as e:
        load("hub:someone/no-such-data")
    assert "network" in one_line(e)
    with pytest.raises(UserError, match="names no data set: give hub:OWNER/NAME"):
        load("hub:")


def test_a_folder_that_holds_no_data(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.bin").write_bytes(b"?")
    with pytest.raises(UserError, match=r"cannot be loaded .* check what is in that folder") as error:
        load(f"hub:{tmp_path / 'notes'}")
    one_line(error)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    with pytest.raises(UserError, match="check what is in that folder"):
        load(f"hub:{tmp_path / 'saved'}")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'vlprompt\[hub\]'"):
        load("hub:someone/pets")
