"""Classifiers that an earlier vlprompt saved load and predict the same, for every method."""

import json
from pathlib import Path

import numpy as np
import pytest

from vlprompt import PromptClassifier, data

SAVED = Path(__file__).parent / "saved"
EXPECTED = json.loads((SAVED / "expected.json").read_text())


@pytest.fixture(scope="module")
def images():
    return [item.image for item in data.load("toy:colours").test[:5]]


def test_all_are_here():
    assert EXPECTED.keys() == {path.name for path in SAVED.iterdir() if path.is_dir()}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_predicts_what_it_did(name, images):
    probabilities = PromptClassifier.load(SAVED / name, device="cpu").predict_proba(images)
    expected = np.array(EXPECTED[name])
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-4)  # for another CPU
    np.testing.assert_array_equal(probabilities.argmax(1), expected.argmax(1))
