"""The examples run as they are, and so do the methods that the docs show."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support import NAMES, random_split, toy_encoder
from vlprompt import PromptClassifier, UserError
from vlprompt.cli.main import main

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
METHOD = str(EXAMPLES / "add_your_own_method.py")
SHOWN = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/adding-a-method.md").read_text(), re.M | re.S)


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of noisy discs and one of noisy squares, 22 images each."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:32, :32] - 16
    shapes = {"red_circle": down**2 + across**2 < 100, "blue_square": np.maximum(abs(down), abs(across)) < 9}
    for channel, (name, inside) in zip((0, 2), shapes.items(), strict=True):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(22):
            pixels = rng.integers(0, 120, (32, 32, 3))
            pixels[inside, channel] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_a_method_of_your_own(photos, tmp_path):
    assert len(Path(METHOD).read_text().splitlines()) <= 40
    out = tmp_path / "out"
    flags = ["--method", METHOD, "--shots", "16", "--epochs", "3", "--alpha", "0.7", "--augment", "none"]
    assert main(["fit", str(photos), "--out", str(out), *flags]) == 0
    with pytest.raises(UserError, match="made by a method of its own"):
        PromptClassifier.load(out)
    classifier = PromptClassifier.load(out, method=METHOD)
    assert classifier.method_.settings.alpha == 0.7
    assert classifier.method_.residual.abs().max() > 0, "nothing was learned"
    images = sorted(photos.rglob("*.png"))
    learned = classifier.predict_proba(images)
    classifier.method_.residual.data.zero_()
    zeroshot = PromptClassifier("zeroshot", templates=classifier.method_.templates)
    zeroshot.fit(images, [path.parent.name.replace("_", " ") for path in images])
    assert classifier.classnames_ == zeroshot.classnames_
    np.testing.assert_allclose(classifier.predict_proba(images), zeroshot.predict_proba(images), rtol=1e-5)
    assert not np.allclose(learned, zeroshot.predict_proba(images), rtol=1e-5, atol=0)
    with pytest.raises(UserError, match="residuals were learned for other classes"):
        classifier.set_classes(["cat", "dog"])


@pytest.mark.parametrize("text", SHOWN, ids=["learns a prompt", "adds to the loss"])
def test_a_method_of_the_docs_learns(text):
    found = {}
    exec(text, found)
    method = next(kind for kind in found.values() if hasattr(kind, "learns"))(toy_encoder(), NAMES)
    losses = method.loss(random_split().batch(torch.arange(6), torch.device("cpu")))
    losses["loss"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in method.parameters())


def test_from_folders_to_a_classifier(photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    script = EXAMPLES / "folders_to_classifier.py"
    monkeypatch.setattr("sys.argv", [str(script), str(photos), str(out)])
    runpy.run_path(str(script), run_name="__main__")
    assert f"of the other images are right; written to {out}" in capsys.readouterr().out
    classifier = PromptClassifier.load(out)
    assert set(classifier.classnames_) == {"red circle", "blue square"}
    assert classifier.measured_["test"]["n"] == 4  # 22 images a class: 16 to learn, 4 to validate, 2 to test
    assert set(classifier.predict(sorted(photos.rglob("*.png")))) <= {"red circle", "blue square"}
