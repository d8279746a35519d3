"""PromptClassifier against scikit-learn's conventions, and its ways to disk and to the hub."""

import json
import pickle
import re
from pathlib import Path

import huggingface_hub.hub_mixin
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks

from vlprompt import PromptClassifier, UserError
from vlprompt.files import LISTED
from vlprompt.training.inputs import image_features

CONVENTIONS = [
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_mixin_order,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimators_unfitted,
]
NAMES = ["red circle", "blue square", "green star"]


def pictures(count: int = 6, channels: tuple[int, ...] = (3,), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 24, *channels), dtype=np.uint8)


def small(method: str = "coop", **parameters) -> PromptClassifier:
    settings = {"coop": {"epochs": 1, "n_ctx": 2}, "zeroshot": {}}[method]
    return PromptClassifier(method, settings=settings, **parameters)


@pytest.fixture(scope="module")
def fitted() -> PromptClassifier:
    return small().fit(pictures(), NAMES * 2)


@pytest.mark.parametrize("check", CONVENTIONS, ids=lambda check: check.__name__)
def test_conventions_of_scikit_learn(check):
    check("PromptClassifier", PromptClassifier())


@pytest.mark.parametrize(
    "call", ["predict", "predict_proba", "decision_function", "explain", "save", "set_classes"]
)
def test_nothing_works_before_fit(call, tmp_path):
    argument = {"save": tmp_path / "out", "set_classes": NAMES, "explain": pictures()[0]}.get(
        call, pictures()
    )
    with pytest.raises(NotFittedError):
        getattr(small(), call)(argument)


def test_fit_changes_no_parameter():
    classifier = small()
    before = classifier.get_params()
    assert classifier.fit(pictures(), NAMES * 2) is classifier
    assert classifier.get_params() == before
    assert clone(classifier).get_params() == before


def test_images_come_in_many_forms(fitted, tmp_path):
    array = pictures()
    expected = fitted.predict_proba(array)
    images = [Image.fromarray(pixels) for pixels in array]
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    objects = np.array(list(map(str, paths)), dtype=object)
    for form in (list(array), tuple(images), images, paths, objects):
        np.testing.assert_array_equal(fitted.predict_proba(form), expected)


def test_grey_images_as_one_array(fitted):
    grey = pictures(4, ())
    np.testing.assert_array_equal(
        fitted.predict_proba(grey), fitted.predict_proba(np.repeat(grey[..., None], 3, -1))
    )


@pytest.mark.parametrize(
    "wrong", [pictures()[0], np.zeros((5, 64), np.uint8), "photo.png", Path("photo.png")]
)
def test_what_is_no_list_of_images(fitted, wrong):
    with pytest.raises(UserError, match=r"give (\[image\]|\(N, H, W\))"):
        fitted.predict(wrong)


@pytest.mark.parametrize("y", [NAMES, [[name] for name in NAMES * 2]], ids=["too few", "two dimensions"])
def test_labels_of_another_shape(y):
    with pytest.raises(UserError, match=r"6 images and labels of shape \(\d.*\): give one label an image"):
        small().fit(pictures(), y)


def test_numbers_are_no_classes():
    with pytest.raises(ValueError, match="continuous"):
        small().fit(pictures(), np.linspace(0.1, 0.7, 6))


@pytest.mark.parametrize("class_names", [NAMES, dict(enumerate(NAMES))], ids=["list", "mapping"])
def test_integer_labels_have_names(class_names, tmp_path):
    y = np.array([2, 0, 1, 2, 0, 1])
    classifier = small(class_names=class_names).fit(pictures(), y)
    assert classifier.classnames_ == tuple(NAMES)
    assert classifier.classes_.tolist() == [0, 1, 2]
    predicted = classifier.predict(pictures())
    assert predicted.dtype.kind == "i"
    assert classifier.score(pictures(), y) == (predicted == y).mean()
    classifier.save(tmp_path / "saved")
    loaded = PromptClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(pictures()), predicted)
    again = clone(loaded).fit(pictures(), y)
    assert again.classnames_ == tuple(NAMES)


def test_integer_labels_without_names_are_digits():
    assert small("zeroshot").fit(pictures(), [7, 3] * 3).classnames_ == ("3", "7")


def test_label_without_a_name():
    with pytest.raises(UserError, match=r"label 3 has no name in class_names: give \{label: name\}"):
        small(class_names=NAMES).fit(pictures(), [0, 3] * 3)


def test_validation_images():
    classifier = small().fit(pictures(), NAMES * 2, pictures(3, seed=1), NAMES)
    assert classifier.history_
    with pytest.raises(UserError, match="label 'dog' is not among the training labels"):
        small().fit(pictures(), NAMES * 2, pictures(1, seed=1), ["dog"])


@pytest.mark.parametrize(
    "form", [lambda x: [Image.fromarray(a) for a in x], lambda x: x], ids=["PIL", "array"]
)
def test_cross_validation(form):
    scores = cross_val_score(small(), form(pictures()), NAMES * 2, cv=2, error_score="raise")
    assert scores.shape == (2,)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_grid_search():
    grid = {"settings": [{"epochs": 1, "n_ctx": 1}, {"epochs": 1, "n_ctx": 3}]}
    search = GridSearchCV(small(), grid, cv=2, scoring="neg_log_loss", error_score="raise")
    search.fit(tuple(pictures()), np.array(NAMES * 2))
    assert len(search.cv_results_["params"]) == 2
    best = search.best_estimator_
    assert best.method_.ctx.shape[0] == search.best_params_["settings"]["n_ctx"]


def test_probabilities_and_logits(fitted):
    probabilities, logits = fitted.predict_proba(pictures()), fitted.decision_function(pictures())
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(
        np.exp(logits) / np.exp(logits).sum(1, keepdims=True), probabilities, rtol=1e-9
    )
    np.testing.assert_array_equal(fitted.predict(pictures()), fitted.classes_[logits.argmax(1)])
    assert fitted.predict_proba([]).shape == (0, 3)


def test_logits_of_two_classes_are_one_number():
    y = ["dog", "cat"] * 3
    classifier = small("zeroshot").fit(pictures(), y)
    decision, probabilities = classifier.decision_function(pictures()), classifier.predict_proba(pictures())
    assert decision.shape == (6,)
    np.testing.assert_allclose(1 / (1 + np.exp(-decision)), probabilities[:, 1], rtol=1e-9)
    np.testing.assert_array_equal(decision > 0, classifier.predict(pictures()) == "dog")
    cross_val_score(classifier, pictures(), y, cv=2, scoring="roc_auc", error_score="raise")


def test_other_classes_by_name_alone(tmp_path):
    classifier = small("zeroshot").fit(pictures(), NAMES * 2)
    expected = small("zeroshot").fit(pictures(), ["cat", "dog"] * 3).predict_proba(pictures())
    assert classifier.set_classes(["cat", "dog"]) is classifier
    np.testing.assert_array_equal(classifier.predict_proba(pictures()), expected)
    assert set(classifier.predict(pictures())) <= {"cat", "dog"}
    classifier.save(tmp_path / "saved")
    assert PromptClassifier.load(tmp_path / "saved").classes_.tolist() == ["cat", "dog"]


def test_pickle(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(pictures()), fitted.predict_proba(pictures()))


# Disk and hub.

MEASURED = {"test": {"accuracy": 51.25, "macro_f1": 50.0, "ece": 3.0, "n": 80}}


@pytest.fixture
def saved(fitted, tmp_path) -> Path:
    fitted.save(tmp_path / "saved", MEASURED)
    return tmp_path / "saved"


def test_pretrained_folder_is_the_same_classifier(fitted, saved):
    again = PromptClassifier.from_pretrained(saved)
    np.testing.assert_array_equal(again.predict_proba(pictures()), fitted.predict_proba(pictures()))
    np.testing.assert_array_equal(again.predict(pictures()), fitted.predict(pictures()))
    assert again.measured_ == MEASURED
    assert set(fitted.get_params()) == set(again.get_params())


def test_save_pretrained_writes_what_save_writes(saved, tmp_path):
    PromptClassifier.from_pretrained(saved).save_pretrained(tmp_path / "again")
    files = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert files == {path.name: path.read_bytes() for path in saved.iterdir() if path.name != LISTED}
    assert {Path(name).suffix for name in files} == {".safetensors", ".json", ".md"}


def test_push_to_hub_uploads_the_artifact(saved, monkeypatch):
    uploaded = {}

    class Api:
        def __init__(self, **kwargs):
            pass

        def create_repo(self, repo_id, **kwargs):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **kwargs):
            uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    assert PromptClassifier.from_pretrained(saved).push_to_hub("me/prompts") == "https://hub/me/prompts"
    assert uploaded == {path.name: path.read_bytes() for path in saved.iterdir() if path.name != LISTED}
    assert b"51.25%" in uploaded["README.md"]


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder"])
def test_what_is_not_there(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"classifier '{re.escape(name)}' cannot be had .*: give a folder"):
        PromptClassifier.from_pretrained(name)


def test_damaged_configuration(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be had"):
        PromptClassifier.from_pretrained(saved)


def test_a_configuration_runs_no_code(saved, tmp_path, monkeypatch):
    """A method file is run only where the caller names it, not because a downloaded config.json does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"method": "evil.py"}))
    with pytest.raises(UserError, match="was made by a method of its own"):
        PromptClassifier.from_pretrained(saved)


SEEING = """
import torch
from vlprompt.methods.coop import CoOp

class Seeing(CoOp):
    name, title = "seeing", "What it sees"
    needs_validation = True

    def see(self, features, labels):
        self.features = torch.nn.Parameter(features.clone(), requires_grad=False)
        self.labels = torch.nn.Parameter(labels.clone(), requires_grad=False)
"""


def test_a_method_sees_the_images_that_it_trains_on_and_no_others(tmp_path):
    """Features and labels of the same ones, without those that are set aside for validation."""
    file = tmp_path / "seeing.py"
    file.write_text(SEEING)
    images, labels = list(pictures(18)), ["a", "b"] * 9
    fitted = PromptClassifier(str(file), settings={"epochs": 1}).fit(images, labels)
    method = fitted.method_
    kept = [*range(0, 12, 2), *range(1, 12, 2)]  # of nine of a class the last three are for validation
    assert method.labels.tolist() == [0] * 6 + [1] * 6
    torch.testing.assert_close(
        method.features.data, image_features(method.encoder, [images[k] for k in kept])
    )
