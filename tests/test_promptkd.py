"""PromptKD: a student of another backbone, unlabelled images, and what stays of the teacher."""

import json
import shutil

import numpy as np
import pytest
import torch

from support import (
    NAMES,
    learned,
    photos_and_labels,
    random_encoder,
    same_bits,
    vlprompt,
    write_photos,
)
from vlprompt import PromptClassifier, UserError
from vlprompt.benchmark.protocols import Cell, run_cell
from vlprompt.estimator.teacher import Teacher, unlabelled
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch
from vlprompt.training.inputs import plain_pixels

QUICK = {"epochs": 2, "batch_size": 4, "depth": 2, "optimizer": "adamw", "lr": 0.01}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photos_and_labels(write_photos(tmp_path_factory.mktemp("photos"), each=4))


@pytest.fixture(scope="module")
def teacher(photos, tmp_path_factory) -> str:
    """A fitted classifier of a backbone with other widths and layers than the student's."""
    folder = tmp_path_factory.mktemp("teacher") / "tuned"
    settings = {"epochs": 3, "n_ctx": 2, "optimizer": "adamw", "lr": 0.01}
    PromptClassifier("coop", "toy-deep", settings).fit(*photos).save(folder)
    return str(folder)


def distil(photos, teacher, **options) -> PromptClassifier:
    settings = QUICK | options.pop("settings", {}) | {"teacher": teacher}
    return PromptClassifier("promptkd", settings=settings, **options).fit(photos[0])


def test_the_student_answers_as_its_teacher(photos, teacher):
    before = distil(photos, teacher, settings={"epochs": 1, "lr": 0.0, "weight_decay": 0.0})
    after = distil(photos, teacher, settings={"epochs": 8})
    wanted = PromptClassifier.load(teacher).predict_proba(photos[0])

    def apart(student):
        return np.abs(student.predict_proba(photos[0]) - wanted).mean()

    assert apart(after) < 0.3 * apart(before)
    assert after.history_[-1]["kd"] < 0.3 * after.history_[0]["kd"]
    assert after.classnames_ == NAMES and after.method_.encoder.backbone.name == "toy"


def test_no_label_is_seen(photos, teacher):
    student, settings = distil(photos, teacher), QUICK | {"teacher": teacher}
    wrong = PromptClassifier("promptkd", settings=settings).fit(photos[0], photos[1][::-1])
    assert same_bits(learned(student), learned(wrong))
    with pytest.raises(UserError, match=r"images without labels need a teacher: give y"):
        PromptClassifier("coop").fit(photos[0])


def test_it_predicts_without_its_teacher(photos, teacher, tmp_path):
    gone = shutil.copytree(teacher, tmp_path / "gone")
    student = distil(photos, str(gone))
    student.save(tmp_path / "student")
    shutil.rmtree(gone)
    loaded = PromptClassifier.load(tmp_path / "student")
    assert np.array_equal(loaded.predict_proba(photos[0]), student.predict_proba(photos[0]))
    classes = PromptClassifier.load(teacher).method_.class_features()
    assert torch.equal(loaded.method_.class_features(), classes.detach())
    one = [loaded.predict_proba([path])[0] for path in photos[0]]
    np.testing.assert_allclose(one, loaded.predict_proba(photos[0]), rtol=1e-5)  # no statistics of a batch


def test_some_of_its_classes_and_no_others(photos, teacher):
    student = distil(photos, teacher)
    whole = student.decision_function(photos[0])
    some = student.set_classes(("red thing", "blue square", "green")).decision_function(photos[0])
    np.testing.assert_allclose(some, whole[:, [2, 0, 1]], rtol=1e-6)
    two = student.set_classes(("green", "red thing")).predict(photos[0])
    assert list(two) == [("green", "red thing")[i] for i in whole[:, 1:].argmax(1)]
    with pytest.raises(UserError, match=r"'apple' is not among them: distil with all the names") as error:
        student.set_classes(("green", "apple"))
    assert "\n" not in str(error.value) and student.classnames_ == ("green", "red thing")


@pytest.mark.parametrize("augment", ["none", "gentle"])
def test_cut_off_it_ends_with_the_same_bits(augment, photos, teacher, tmp_path):
    def stop(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    def train(**more):
        classifier = PromptClassifier("promptkd", settings=settings, augment=augment)
        return learned(classifier.fit_dataset(unlabelled(photos[0], teacher), **more))

    settings = QUICK | {"teacher": teacher, "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        train(checkpoints=tmp_path, on_epoch=stop)
    assert same_bits(train(checkpoints=tmp_path), train())
    other = PromptClassifier("promptkd", settings=settings | {"temperature": 2.0}, augment=augment)
    with pytest.raises(UserError, match="belongs to a run with other settings"):
        other.fit_dataset(unlabelled(photos[0], teacher), tmp_path)


@pytest.mark.parametrize("model", ["toy", "clip of another side"])
def test_a_view_is_answered_as_the_image_that_it_shows(model, photos, teacher):
    student = distil(photos, teacher, settings={"epochs": 1}).method_.encoder
    if model != "toy":
        student.backbone.processor.image_mean, student.backbone.processor.image_std = [0.2] * 3, [0.7] * 3
    asked = Teacher(teacher, NAMES, ("a photo of a {}.",), "cpu")
    pixels, positions = plain_pixels(student, photos[0])(torch.arange(4)), torch.arange(4)
    once, anew = (asked.answers(photos[0], student.backbone, fixed) for fixed in (True, False))
    torch.testing.assert_close(anew(positions, pixels), once(positions, pixels), rtol=1e-4, atol=1e-3)
    assert (anew(positions, pixels.flip(0)) - once(positions, pixels)).abs().max() > 0.1


def test_the_loss_is_the_divergence_of_both_softmaxes():
    kind, draw = get_method("promptkd"), torch.Generator().manual_seed(0)
    settings = kind.Settings(depth=2, temperature=2.0, distill=50.0)
    torch.manual_seed(2)
    method = kind(random_encoder(), NAMES, settings).double()
    method.taught_by(torch.randn(3, 17, dtype=torch.float64, generator=draw))
    method.double()
    teacher = torch.randn(4, 3, dtype=torch.float64, generator=draw)
    pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=draw)
    loss = method.loss(Batch(pixels, torch.zeros(4), taught=lambda: teacher))["loss"]
    p, q = (teacher / 2).softmax(-1), (method(pixels) / 2).softmax(-1)
    expected = 50 * 4 * (p * (p / q).log()).sum() / 12
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


def test_who_cannot_teach_is_refused(photos, teacher, tmp_path):
    with pytest.raises(UserError, match="'promptkd' cannot be trained without a teacher"):
        PromptClassifier("promptkd").fit(*photos)
    with pytest.raises(UserError, match="classifier 'nowhere' does not exist"):
        distil(photos, "nowhere")
    PromptClassifier("linear").fit(*photos).save(tmp_path / "linear")
    settings = QUICK | {"teacher": str(tmp_path / "linear")}
    with pytest.raises(UserError, match=r"teacher '.*linear' has other classes: a linear probe knows only"):
        PromptClassifier("promptkd", settings=settings).fit(photos[0], ["cat", "dog"] * 6)


def test_base_to_new_learns_on_the_images_of_all_classes(tmp_path):
    teacher = tmp_path / "zeroshot"
    PromptClassifier("zeroshot").fit(np.zeros((4, 32, 32, 3), np.uint8), ["cat", "dog"] * 2).save(teacher)
    settings = QUICK | {"teacher": str(teacher), "epochs": 1}
    cell = Cell(
        suite="toy", protocol="base-to-new", dataset="fonts", method="promptkd", settings=settings, shots=1
    )
    record = run_cell(cell)
    assert record["metrics"].keys() == {"base", "new"} and record["metrics"]["new"]["n"] > 0
    assert record["history"]["train"]["epochs"] == 1


def test_damaged_features_of_the_teacher_are_named(photos, teacher, tmp_path):
    from safetensors.torch import load_file, save_file

    distil(photos, teacher).save(tmp_path / "student")
    file = tmp_path / "student" / "prompts.safetensors"
    tensors = load_file(file)
    for wrong in (torch.zeros(2, 5), torch.zeros(3), torch.zeros(3, 0), torch.zeros(3, 7)):
        save_file(tensors | {"teacher_classes": wrong}, file)
        with pytest.raises(UserError, match="damaged"):
            PromptClassifier.load(tmp_path / "student")


def test_the_command_takes_a_folder_without_labels(photos, teacher, tmp_path, capsys):
    folder = tmp_path / "heap"
    folder.mkdir()
    for number, path in enumerate(photos[0]):
        shutil.copy(path, folder / f"{number}.png")
    out, flags = tmp_path / "small", ["--epochs", 1, "--depth", 2, "--seed", 3, "--json"]
    assert vlprompt("distill", folder, "--teacher", teacher, "--out", out, *flags) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["classes"] == 3 and said["images"] == 12
    assert (out / "report.html").is_file() and PromptClassifier.load(out).seed == 3
    assert vlprompt("predict", out, folder, "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 12
    assert vlprompt("distill", folder, "--out", tmp_path / "none") == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "none").exists()
