"""The examples run as they are, and so do the methods that the docs show."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, OwlViTConfig, OwlViTModel
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from support import NAMES, random_split, toy_encoder
from vlprompt import PromptClassifier, UserError
from vlprompt.cli.main import main
from vlprompt.engine.backbones import load
from vlprompt.engine.backbones.load import BUILT_IN
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.prompt import Prompt
from vlprompt.methods import get_method
from vlprompt.methods.rows import context_parameter, learnable_rows

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
EXACT = {"rtol": 0, "atol": 1e-10}
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
    assert len(Path(METHOD).read_text().splitlines()) <= 50
    out = tmp_path / "out"
    flags = ["--method", METHOD, "--shots", "16", "--epochs", "4", "--n-prompts", "3", "--augment", "none"]
    flags += ["--batch-size", "8"]
    assert main(["fit", str(photos), "--out", str(out), *flags]) == 0
    with pytest.raises(UserError, match="made by a method of its own"):
        PromptClassifier.load(out)
    classifier = PromptClassifier.load(out, method=METHOD)
    assert classifier.method_.ctx.shape[:2] == (3, 4)
    losses = [record["loss"] for record in classifier.history_]
    assert losses[-1] < losses[0], losses
    images = sorted(photos.rglob("*.png"))
    features = classifier.method_.samples()  # of one context each, as CoOp has it
    coop = PromptClassifier("coop", settings={"epochs": 0, "n_ctx": 4})
    coop.fit(images, [path.parent.name.replace("_", " ") for path in images])
    for context, own in zip(classifier.method_.ctx, features, strict=True):
        coop.method_.ctx.data = context.detach()
        torch.testing.assert_close(coop.method_.class_features(), own, rtol=0, atol=1e-5)
    assert set(classifier.set_classes(["cat", "dog"]).predict(images)) <= {"cat", "dog"}


def test_the_method_of_your_own_bounds_the_expected_loss():
    method = get_method(METHOD, files=True)(toy_encoder(torch.float64), NAMES).double()
    split = random_split().batch(torch.arange(6), torch.device("cpu"))
    batch = split._replace(images=split.images.double())
    loss, samples = method.loss(batch)["loss"], method.samples()
    scaled = method.encoder.logit_scale * method.image_features(batch.images)  # (B, E)
    mean, own = samples.mean(0), samples - samples.mean(0)
    covariance = torch.einsum("pke,plf->klef", own, own) / len(samples)  # (K, K, E, E)
    expected = 0.0
    for x, y in zip(scaled, batch.labels, strict=True):
        logits = []
        for k in range(len(NAMES)):
            apart = covariance[k, k] + covariance[y, y] - covariance[k, y] - covariance[y, k]
            logits.append(x @ mean[k] + x @ apart @ x / 2)  # the paper's bound
        expected += F.cross_entropy(torch.stack(logits), y) / len(batch.labels)
    torch.testing.assert_close(loss, expected, **EXACT)
    each = [F.cross_entropy(scaled @ classes.T, batch.labels) for classes in samples]
    assert loss > sum(each) / len(each)


@pytest.mark.parametrize("text", SHOWN, ids=["learns a prompt", "adds to the loss"])
def test_a_method_of_the_docs_learns(text):
    found = {}
    exec(text, found)
    method = next(kind for kind in found.values() if hasattr(kind, "learns"))(toy_encoder(), NAMES)
    losses = method.loss(random_split().batch(torch.arange(6), torch.device("cpu")))
    losses["loss"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in method.parameters())


def test_a_search_space_of_your_own(photos, tmp_path):
    script, out = str(EXAMPLES / "add_your_own_search_space.py"), tmp_path / "out"
    assert len(Path(script).read_text().splitlines()) <= 60
    flags = ["--text-max", 2, "--vision-max", 3, "--budget", 9, "--epochs", 4, "--augment", "none"]
    assert main(["fit", str(photos), "--out", str(out), "--method", script, *map(str, flags)]) == 0
    found = PromptClassifier.load(out, method=script).method_.lengths
    assert set(found.text) <= {0, 2} and set(found.vision) <= {0, 3} and 0 < found.total <= 9


@pytest.fixture
def owl(tmp_path) -> Path:
    """The folder of an OWL-ViT with random weights."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUILT_IN["toy"])
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("bos", "eos", "pad")}
    text, vision = {"vocab_size": len(tokenizer), **ids}, {"image_size": 32, "patch_size": 8}
    config = OwlViTConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=12)
    folder, side = tmp_path / "owl", {"height": 32, "width": 32}
    for part in (OwlViTModel(config), tokenizer, OwlViTImageProcessorPil(size=side, crop_size=side)):
        part.save_pretrained(folder)
    return folder


def test_a_backbone_of_your_own(owl, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "FAMILIES", dict(load.FAMILIES))
    out, script = tmp_path / "out", str(EXAMPLES / "add_your_own_backbone.py")
    words = ["fit", photos, "--model", owl, "--n-ctx", 4, "--epochs", 1, "--augment", "none", "--out", out]
    monkeypatch.setattr("sys.argv", [script, *map(str, words)])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(script, run_name="__main__")
    probabilities = PromptClassifier.load(out).predict_proba(sorted(photos.rglob("*.png")))
    assert np.ptp(probabilities, axis=0).max() > 0, "every picture is the same to it"

    encoder = Encoder(load.load_backbone(str(owl), dtype=torch.float64))
    stock = OwlViTModel.from_pretrained(owl, dtype=torch.float64).eval()
    start = "a photo of a"
    sentences = encoder.tokenize([f"{start} {name}." for name in NAMES])
    ends = [stock.text_model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in sentences]
    texts = F.normalize(stock.text_projection(torch.stack(ends)), dim=-1)  # (K, E)
    context = context_parameter(encoder, 4, start).double()
    prompted = encoder.encode_text(learnable_rows(encoder, NAMES, 4, start), Prompt(context=context))
    torch.testing.assert_close(encoder.encode_text(sentences), texts, **EXACT)
    torch.testing.assert_close(prompted, texts, **EXACT)

    pixels, tokens = torch.randn(2, 3, 32, 32).double(), torch.randn(3, 16).double()
    for prompt in (tokens[:0], tokens):
        vision = stock.vision_model
        hidden = torch.cat([vision.embeddings(pixels), prompt.expand(2, -1, -1)], 1)
        hidden = vision.encoder(vision.pre_layernorm(hidden)).last_hidden_state[:, 0]
        images = F.normalize(stock.visual_projection(vision.post_layernorm(hidden)), dim=-1)  # (B, E)
        torch.testing.assert_close(encoder.encode_image(pixels, Prompt(context=prompt)), images, **EXACT)
    theirs = stock.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(encoder.encode_image(pixels), F.normalize(theirs, dim=-1), **EXACT)


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
