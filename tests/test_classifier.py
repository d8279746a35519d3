"""The classifier on data sets as they are; scikit-learn's conventions are in test_estimator.py."""

import numpy as np
import pytest
import torch

from support import NAMES, learned, photos_and_labels, same_bits, write_clip, write_photos
from vlprompt.data import read_folder
from vlprompt.dataset import Dataset, Item
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.estimator.fitting import set_aside

QUICK = {"epochs": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), each=5)


@pytest.fixture(scope="module")
def dataset(folder):
    return read_folder(folder, show=False)


def refused(match: str, dataset: Dataset, method: str = "coop", **parameters) -> None:
    with pytest.raises(UserError, match=match) as error:
        PromptClassifier(method, **parameters).fit_dataset(dataset)
    assert "\n" not in str(error.value)


def test_a_data_set_and_its_images_and_labels_give_the_same_classifier(folder, dataset):
    paths, labels = photos_and_labels(folder)
    first = PromptClassifier("coop", settings=QUICK).fit_dataset(dataset)
    second = PromptClassifier("coop", settings=QUICK).fit(paths, labels)
    assert first.classnames_ == second.classnames_ == NAMES
    assert list(first.classes_) == list(second.classes_) == list(NAMES)
    assert same_bits(learned(first), learned(second))


def test_a_seed_decides_everything(dataset):
    a, b, c = [PromptClassifier("coop", settings=QUICK, seed=s).fit_dataset(dataset) for s in (1, 1, 2)]
    assert same_bits(learned(a), learned(b)) and not same_bits(learned(a), learned(c))


def test_colours_are_learned_whatever_the_backbone(dataset):
    """Three colours, a probe on the image features: a sanity check of pixels, labels and names."""
    classifier = PromptClassifier("linear").fit_dataset(dataset)
    assert classifier.evaluate(dataset.train)["accuracy"] == 100
    assert classifier.predict([item.image for item in dataset.train[:1]]) == [NAMES[0]]


def test_cached_views_are_drawn_and_change_the_training(dataset):
    fresh, views, plain = [
        PromptClassifier("coop", settings=QUICK, augment=augment, views=count).fit_dataset(dataset)
        for augment, count in (("crop+flip", 0), ("crop+flip", 3), ("none", 0))
    ]
    assert not same_bits(learned(fresh), learned(views)) and not same_bits(learned(views), learned(plain))
    again = PromptClassifier("coop", settings=QUICK, augment="crop+flip", views=3).fit_dataset(dataset)
    assert same_bits(learned(views), learned(again))


def test_augmentation_is_published_except_for_the_toy_backbone(dataset, tmp_path):
    clip = str(write_clip(tmp_path / "clip"))

    def trained(model, augment):
        return learned(PromptClassifier("coop", model, QUICK, augment=augment).fit_dataset(dataset))

    assert same_bits(trained("toy", "auto"), trained("toy", "none"))
    assert same_bits(trained(clip, "auto"), trained(clip, "crop+flip"))
    assert not same_bits(trained(clip, "auto"), trained(clip, "none"))


def test_published_epochs_follow_from_the_number_of_images(dataset):
    one = Dataset("one", NAMES, [next(i for i in dataset.train if i.label == k) for k in range(3)])
    assert PromptClassifier("coop").fit_dataset(one).method_.settings.epochs == 50


def test_validation_images_are_set_aside_of_each_class():
    items = [Item(f"{label}{i}", label) for label in range(2) for i in range(9)]
    kept, aside = set_aside(items, 4)
    assert [i.image for i in aside] == ["06", "07", "08", "16", "17", "18"] and len(kept) == 12
    kept, aside = set_aside(items[:2], 4)
    assert len(kept) == 2 and not aside
    many = [Item(str(i), 0) for i in range(30)]
    assert len(set_aside(many, 4)[1]) == 4


def test_too_few_images_for_a_search(dataset):
    two = Dataset("two", NAMES, [i for k in range(3) for i in [x for x in dataset.train if x.label == k][:2]])
    refused("validation images and there are none", two, "dpl", settings={"search": "alphas"})


@pytest.mark.parametrize("templates", [(), ("a photo.",), ("{}", "a photo of a {.")])
def test_templates_without_a_place_for_the_name(templates, dataset):
    refused("template '.*': it needs {}", Dataset("d", NAMES, dataset.train, templates=templates))


def test_one_class_is_no_classification(dataset):
    refused("has 1 class: give two or more", Dataset("d", NAMES[:1], dataset.train[:2]))


def test_unknown_settings_are_answered_with_the_list(dataset):
    refused(r"method 'coop' has no setting 'ctx': there are .*n_ctx", dataset, settings={"ctx": 4})
    refused("has no preset 'x'", dataset, preset="x")
    refused("unknown method 'copo'", dataset, "copo")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_are_none(seed, dataset):
    refused(f"seed {seed}: give a whole number", dataset, seed=seed)


def test_a_name_that_is_too_long_for_the_backbone_is_named(dataset):
    refused(r"'.*zq zq.*' .*77", Dataset("d", ("zq " * 60, "b", "c"), dataset.train))
    refused("context", dataset, settings={"n_ctx": 90})


def test_equal_names_stay_two_classes(dataset):
    same = Dataset("d", ("red", "red", "blue"), dataset.train)
    classifier = PromptClassifier("coop", settings=QUICK).fit_dataset(same)
    probabilities = classifier.predict_proba([dataset.train[0].image])
    assert probabilities.shape == (1, 3)
    assert probabilities[0, 0] == pytest.approx(probabilities[0, 1], rel=1e-5)  # a product's last bits differ
    features = classifier.method_.class_features()
    assert torch.equal(features[0], features[1]) and not torch.equal(features[0], features[2])


def test_what_enters_the_first_prompted_layer_is_kept(dataset, monkeypatch):
    """A step runs the layers below the first prompt never again, and learns the same."""
    settings = QUICK | {"text_lengths": (0, 0, 2, 2), "vision_lengths": (0, 0, 2, 2), "epochs": 3}
    runs: list[int] = []
    enter = Encoder.enter_layer
    monkeypatch.setattr(Encoder, "enter_layer", lambda *a: (runs.append(len(a[1])), enter(*a))[1])
    kept = PromptClassifier("dpl", settings=settings).fit_dataset(dataset)
    assert sum(runs) == 1 + len(dataset.train)  # one to see how large it is
    monkeypatch.setattr("vlprompt.training.inputs.KEPT_BYTES", 0)
    again = PromptClassifier("dpl", settings=settings).fit_dataset(dataset)
    assert sum(runs) == 2 + len(dataset.train) + 3 * 12  # three epochs of three batches of four
    for name, tensor in learned(kept).items():
        torch.testing.assert_close(tensor, learned(again)[name], rtol=1e-3, atol=1e-5)


def test_no_images_give_no_predictions(dataset):
    classifier = PromptClassifier("zeroshot").fit_dataset(dataset)
    assert classifier.predict_proba([]).shape == (0, 3) and len(classifier.predict([])) == 0


def test_batches_do_not_matter(dataset):
    classifier = PromptClassifier("coop", settings=QUICK).fit_dataset(dataset)
    images = [item.image for item in dataset.train] * 5  # more than one batch
    together = classifier.predict_proba(images)
    alone = np.concatenate([classifier.predict_proba([image]) for image in images[:3]])
    np.testing.assert_allclose(together[:3], alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(together[:15], together[60:], rtol=0, atol=1e-6)


def test_a_cut_off_training_goes_on_with_the_same_images_only(dataset, tmp_path):
    def train(tmp_path, data=dataset, **parameters):
        return PromptClassifier("coop", settings=QUICK, **parameters).fit_dataset(data, tmp_path)

    before = learned(train(tmp_path))
    assert same_bits(before, learned(train(tmp_path)))
    for change in ({"augment": "crop"}, {"augment": "crop", "views": 2}, {"seed": 3}):
        with pytest.raises(UserError, match=r"belongs to a run with other .*images"):
            train(tmp_path, **change)
    with pytest.raises(UserError, match="belongs to a run"):
        train(tmp_path, Dataset("another", NAMES, dataset.train))
