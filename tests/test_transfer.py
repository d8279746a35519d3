"""Other classes are a view of what was trained; what goes together is said, not guessed."""

import numpy as np
import pytest
import torch

from support import NAMES, learned, photos_and_labels, same_bits, write_photos
from vlprompt import PromptClassifier, UserError
from vlprompt.benchmark.protocols import Cell, run_cell
from vlprompt.cli.config_file import config_text, expand_config
from vlprompt.cli.fit import FitOptions

QUICK = {"epochs": 1, "batch_size": 4}
OTHERS = ("green", "a dog", "a cat")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photos_and_labels(write_photos(tmp_path_factory.mktemp("photos"), each=4))


@pytest.mark.parametrize("method", ["tip", "genpt", "kgcoop", "promptsrc"])
def test_other_classes_are_a_view(method, photos):
    """What was used in between does not matter, and the training's classes come back to the bit."""
    classifier = PromptClassifier(method, settings=QUICK).fit(*photos)
    paths, before = photos[0][:3], learned(classifier)
    own = classifier.predict_proba(paths)
    direct = classifier.set_classes(OTHERS).predict_proba(paths)
    classifier.set_classes(("x", "y"), templates=("art of {}.",))
    assert np.array_equal(classifier.set_classes(OTHERS, ("a photo of a {}.",)).predict_proba(paths), direct)
    classifier.set_classes(NAMES)
    assert np.array_equal(classifier.predict_proba(paths), own)
    assert same_bits(learned(classifier), before)


@pytest.mark.parametrize("method", ["tip", "genpt", "kgcoop"])
def test_refused_classes_change_nothing(method, photos):
    classifier = PromptClassifier(method, settings=QUICK).fit(*photos)
    before = classifier.predict_proba(photos[0][:3])
    for names, templates in (
        (["a", "word " * 600], None),
        ("abc", None),
        ([], None),
        ([1, 2], None),
        (["a", "b"], ("no place",)),
    ):
        with pytest.raises(UserError):
            classifier.set_classes(names, templates)
        assert np.array_equal(classifier.predict_proba(photos[0][:3]), before)
        assert classifier.classnames_ == NAMES


def test_labels_may_come_from_an_iterator(photos):
    paths, labels = photos
    classifier = PromptClassifier("zeroshot").fit(paths, iter(labels))
    assert classifier.classnames_ == NAMES


def test_a_caller_draws_on_as_before(photos):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    PromptClassifier("coop", settings=QUICK).fit(*photos)
    assert torch.equal(torch.rand(3), expected)


def test_fit_yaml_has_what_differs_from_the_defaults(tmp_path):
    options = FitOptions(data="d", out=tmp_path / "o", shots=None, clip_grad=None)
    (tmp_path / "fit.yaml").write_text(config_text(options, {"ctx_init": "", "lr": 0.1}))
    words = expand_config(["--config", str(tmp_path / "fit.yaml")])
    assert words == expand_config([f"--config={tmp_path / 'fit.yaml'}"])
    for flag, value in (("--shots", "None"), ("--ctx-init", ""), ("--lr", "0.1")):
        assert words[words.index(flag) + 1] == value


def test_a_run_with_other_weights_than_planned_is_none():
    cell = Cell(
        suite="toy", protocol="few-shot", dataset="shapes", method="zeroshot", shots=1, revision="other"
    )
    with pytest.raises(UserError, match="where the run was planned"):
        run_cell(cell)
