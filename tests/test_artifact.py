"""A classifier as a folder: what is written, what is refused, and that nothing is ever half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from support import NAMES, photos_and_labels, write_clip, write_photos
from vlprompt.errors import UserError
from vlprompt.estimator import artifact
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import LISTED
from vlprompt.methods.lengths import Lengths

COOP = {"epochs": 1, "n_ctx": 2}
MEASURED = {"test": {"accuracy": 87.654, "macro_f1": 81.2, "ece": 3.4, "n": 321}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photos_and_labels(write_photos(tmp_path_factory.mktemp("photos"), each=3))


@pytest.fixture(scope="module")
def coop(photos):
    return PromptClassifier("coop", settings=COOP).fit(*photos)


@pytest.fixture
def kept(coop, tmp_path):
    coop.save(tmp_path / "kept", MEASURED)
    return tmp_path / "kept"


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# What is written.


def test_the_folder_holds_these_files_and_no_pickle(kept, coop):
    assert names(kept) == {"prompts.safetensors", "config.json", "history.json", "README.md", LISTED}
    tensors = load_file(kept / "prompts.safetensors")
    assert list(tensors) == ["ctx"] and tensors["ctx"].shape == (2, 128)
    config = json.loads((kept / "config.json").read_text(encoding="utf-8"))
    assert config["format"] == artifact.FORMAT and config["method"] == "coop"
    assert config["classnames"] == list(NAMES) and config["settings"]["n_ctx"] == 2
    digest = coop.method_.encoder.backbone.digest
    assert config["backbone"] == {"name": "toy", "revision": None, "digest": digest}
    assert json.loads((kept / "history.json").read_text()) == coop.history_
    for path in kept.iterdir():
        assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04"), f"{path} is a pickle"


def test_the_card_has_the_measured_accuracy_and_the_backbone(kept, coop, tmp_path):
    card = (kept / "README.md").read_text(encoding="utf-8")
    assert "| test | 87.65% | 81.20% | 3.40% | 321 |" in card
    assert card.startswith("---\nlibrary_name: vlprompt\n") and "CoOp for 3 classes" in card
    assert coop.method_.encoder.backbone.digest in card and ", ".join(NAMES) in card
    coop.save(tmp_path / "unmeasured", {})
    assert "was not measured" in (tmp_path / "unmeasured" / "README.md").read_text()


def test_dpl_writes_its_lengths(photos, tmp_path):
    settings = {"search": "alphas", "epochs": 0, "search_epochs": 1, "text_max": 2, "vision_max": 3}
    classifier = PromptClassifier("dpl", settings=settings).fit(*photos)
    classifier.save(tmp_path / "dpl")
    found = classifier.method_.lengths
    assert len(found.text) == len(found.vision) == 4 and len(found.text_confidence) == 4
    assert Lengths.load(tmp_path / "dpl" / "lengths.json") == found
    loaded = PromptClassifier.load(tmp_path / "dpl")
    assert (loaded.method_.lengths.text, loaded.method_.lengths.vision) == (found.text, found.vision)
    assert loaded.history_[0]["alphas"]["text"] == classifier.history_[0]["alphas"]["text"]


@pytest.mark.parametrize("name", ["with spaces", "日本 😀", "a'b\"c", "-x", ".hidden", "a" * 200])
def test_any_folder_name(name, coop, photos, tmp_path):
    coop.save(tmp_path / name)
    loaded = PromptClassifier.load(tmp_path / name)
    assert np.array_equal(loaded.predict_proba(photos[0][:2]), coop.predict_proba(photos[0][:2]))


def test_class_names_of_any_characters(photos, tmp_path):
    labels = {"blue square": "crêpe 😀", "green": "日本", "red thing": 'a "{}" \\n'}
    classifier = PromptClassifier("zeroshot").fit(photos[0], [labels[name] for name in photos[1]])
    classifier.save(tmp_path / "kept")
    loaded = PromptClassifier.load(tmp_path / "kept")
    assert loaded.classnames_ == classifier.classnames_ and set(loaded.classes_) == set(labels.values())
    assert "日本" in (tmp_path / "kept" / "config.json").read_text(encoding="utf-8")


def test_paths_from_the_current_folder(coop, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coop.save("here")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    coop.save("../there/below")
    coop.save(".")
    monkeypatch.chdir(tmp_path)
    assert names(tmp_path) == {"here", "there", "empty"}
    for folder in ("here", "there/below", "empty"):
        assert PromptClassifier.load(folder).classnames_ == NAMES


# Where it is written.


def test_an_older_classifier_is_replaced_whole(kept, photos):
    (kept / "report.html").write_text("of the older one")
    with (kept / LISTED).open("a") as listed:
        listed.write("report.html\n")
    PromptClassifier("zeroshot").fit(*photos).save(kept)
    assert "report.html" not in names(kept) and names(kept.parent) == {"kept"}
    assert PromptClassifier.load(kept).method_.name == "zeroshot"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_place_that_is_something_else_is_left_alone(what, coop, tmp_path):
    target = tmp_path / "taken"
    if what == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    with pytest.raises(
        UserError,
        match="taken' exists and is no classifier of ours: it was not made",
    ) as error:
        coop.save(target)
    one_line(error)
    assert names(tmp_path) == {"taken"}
    assert (target if what == "file" else target / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["file/below", "file/far/below", "name" + "x" * 300])
def test_a_place_that_cannot_be_written(place, coop, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written .*give a folder you may write to") as error:
        coop.save(tmp_path / place)
    one_line(error)
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "mine"


def test_nothing_is_half_written_after_an_error(coop, kept):
    before = {p.name: p.read_bytes() for p in kept.iterdir()}
    for target in (kept, kept.parent / "new"):
        with pytest.raises(TypeError):
            coop.save(target, {"test": {"accuracy": object()}})
    coop.measured_ = {}
    assert names(kept.parent) == {"kept"}
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == before


def test_a_checkpoint_outlives_an_error_and_nothing_else_does(tmp_path):
    def cut_off(name, file):
        with artifact.folder_beside(tmp_path / name) as beside:
            (beside / file).parent.mkdir(exist_ok=True)
            (beside / file).write_text("one epoch")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off("a", "checkpoints/train.safetensors")
    assert names(tmp_path) == {"a.part"}
    with artifact.folder_beside(tmp_path / "a") as beside:
        assert (beside / "checkpoints" / "train.safetensors").read_text() == "one epoch"
        artifact.drop_checkpoints(beside)
        (beside / artifact.CONFIG).write_text("{}")
    assert names(tmp_path) == {"a"} and names(tmp_path / "a") == {"config.json", LISTED}
    with pytest.raises(KeyboardInterrupt):
        cut_off("b", "prompts.safetensors")
    assert names(tmp_path) == {"a"}


# What is read.


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere' does not exist: give a folder made by 'vlprompt fit"):
        PromptClassifier.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "prompts.safetensors"])
def test_a_missing_file_is_named(name, kept):
    (kept / name).unlink()
    with pytest.raises(UserError, match=f"kept' has no {name}") as error:
        PromptClassifier.load(kept)
    one_line(error)


@pytest.mark.parametrize("name", ["config.json", "prompts.safetensors", "history.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_a_truncated_file_is_refused(name, share, kept):
    content = (kept / name).read_bytes()
    (kept / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"kept' is damaged .*copy the whole folder again") as error:
        PromptClassifier.load(kept)
    one_line(error)


@pytest.mark.parametrize("content", ["[]", "3", '{"format": 1}', '{"format": "x"}', "\xff\xfe"])
def test_a_config_that_is_none(content, kept):
    (kept / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="kept' is damaged"):
        PromptClassifier.load(kept)


def test_a_newer_format_asks_for_an_update(kept):
    edit(kept, format=artifact.FORMAT + 1, settings={"of tomorrow": 1})
    with pytest.raises(UserError, match=f"format {artifact.FORMAT + 1}, this vlprompt reads .*update it"):
        PromptClassifier.load(kept)


def test_an_unknown_setting_and_an_unknown_method(kept):
    edit(kept, settings={"n_ctx": 2, "of_tomorrow": 1})
    with pytest.raises(UserError, match="setting 'of_tomorrow', which method 'coop' does not know"):
        PromptClassifier.load(kept)
    edit(kept, method="tomorrow")
    with pytest.raises(UserError, match="unknown method 'tomorrow'"):
        PromptClassifier.load(kept)


def test_prompts_of_another_shape_or_name(kept):
    tensors = load_file(kept / "prompts.safetensors")
    for wrong in ({"ctx": tensors["ctx"][:1].contiguous()}, {"other": tensors["ctx"]}, {}):
        save_file(wrong, kept / "prompts.safetensors")
        with pytest.raises(UserError, match="do not fit method 'coop'"):
            PromptClassifier.load(kept)


def test_prompts_of_other_classes_are_refused(photos, tmp_path):
    settings = COOP | {"class_specific": True}
    PromptClassifier("coop", settings=settings).fit(*photos).save(tmp_path / "kept")
    edit(tmp_path / "kept", classnames=["two", "classes"], labels=["two", "classes"])
    with pytest.raises(UserError, match="do not fit"):
        PromptClassifier.load(tmp_path / "kept")


def test_a_history_is_not_needed(kept):
    (kept / "history.json").unlink()
    assert PromptClassifier.load(kept).history_ == []


# The backbone.


def test_a_missing_backbone_is_named(photos, tmp_path):
    clip = write_clip(tmp_path / "my clip")
    classifier = PromptClassifier("coop", str(clip), COOP).fit(*photos)
    before = classifier.predict_proba(photos[0])
    classifier.save(tmp_path / "kept")
    shutil.move(clip, tmp_path / "moved")
    digest = classifier.method_.encoder.backbone.digest
    with pytest.raises(UserError, match=rf"needs the backbone '.*my clip' \(weights {digest}\): ") as error:
        PromptClassifier.load(tmp_path / "kept")
    one_line(error)
    loaded = PromptClassifier.load(tmp_path / "kept", model=str(tmp_path / "moved"))
    assert np.array_equal(loaded.predict_proba(photos[0]), before)


def test_other_weights_are_refused(kept, tmp_path, coop):
    clip = write_clip(tmp_path / "other")
    ours = coop.method_.encoder.backbone.digest
    with pytest.raises(UserError, match=rf"weights {ours} of 'toy', and '.*other' has \w+: give") as error:
        PromptClassifier.load(kept, model=str(clip))
    one_line(error)
    edit(kept, backbone={"name": "toy", "revision": "0123"})
    with pytest.raises(UserError, match="weights 0123 of 'toy', and 'toy' has"):
        PromptClassifier.load(kept)
