"""Image encoders without words: exact against the stock model, a head for classes, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers.models.dinov3_vit.modeling_dinov3_vit import rotate_half

import vision_models
from support import agree, photos_and_labels, vlprompt
from vlprompt import PromptClassifier, UserError
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.prompt import KeyValue, Prompt
from vlprompt.export.onnx import export_onnx
from vlprompt.methods import get_method

CLOSE = {"rtol": 0, "atol": 1e-10}
FAMILIES = tuple(vision_models.STOCK)
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("vision")
    return {family: vision_models.write(family, root / family) for family in FAMILIES}


@pytest.fixture
def pixels():
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def encoder_of(folder):
    return Encoder(load_backbone(str(folder), dtype=torch.float64))


def prompts(layers: int, width: int, lengths=(2, 0, 3)) -> list[torch.Tensor]:
    torch.manual_seed(5)
    return [torch.randn(n, width, dtype=torch.float64, requires_grad=True) for n in lengths[:layers]]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_prompts_it_is_the_stock_model(family, folders, pixels):
    stock = vision_models.STOCK[family].from_pretrained(folders[family], dtype=torch.float64).eval()
    theirs = stock(pixel_values=pixels).last_hidden_state[:, 0]
    ours = encoder_of(folders[family]).encode_image(pixels, normalize=False)
    torch.testing.assert_close(ours, theirs, **CLOSE)


# Plainly: the stock modules called one by one, prompt keys and values put in front by hand.


def plain(family, model, pixels, keys_values, deep=()):
    """The class token's feature; ``deep`` are tokens behind the patches, by layer."""
    x = model.embeddings(pixels)
    layers = {"vit": lambda: model.layers, "dinov2": lambda: model.encoder.layer}.get(
        family, lambda: model.model.layer
    )()
    front, patches = x.shape[1] - 16, 16
    for index, layer in enumerate(layers):
        if index < len(deep):
            x = torch.cat([x[:, : front + patches], deep[index].expand(len(x), -1, -1)], 1)
        norm1, norm2 = (
            (layer.layernorm_before, layer.layernorm_after) if family == "vit" else (layer.norm1, layer.norm2)
        )
        attn, normed = layer.attention, norm1(x)
        tokens = norm1(keys_values[index]) if keys_values else normed[0, :0]

        def split(projected):
            return projected.unflatten(-1, (2, 16)).transpose(-3, -2)

        q, k, v = split(attn.q_proj(normed)), split(attn.k_proj(normed)), split(attn.v_proj(normed))
        if family == "dinov3_vit":
            cos, sin = model.rope_embeddings(pixels)
            turned = []
            for part in (q, k):
                middle = part[:, :, front : front + patches]
                middle = middle * cos + rotate_half(middle) * sin
                turned.append(torch.cat([part[:, :, :front], middle, part[:, :, front + patches :]], 2))
            q, k = turned
        more = [split(f(tokens)).expand(len(x), -1, -1, -1) for f in (attn.k_proj, attn.v_proj)]
        k, v = torch.cat([more[0], k], 2), torch.cat([more[1], v], 2)
        out = attn.o_proj(((q @ k.mT / 4).softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + (out if family == "vit" else layer.layer_scale1(out))
        out = layer.mlp(norm2(x))
        x = x + (out if family == "vit" else layer.layer_scale2(out))
    norm = model.norm if family == "dinov3_vit" else model.layernorm
    return F.normalize(norm(x)[:, 0], dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_key_value_prompts(family, folders, pixels):
    encoder = encoder_of(folders[family])
    tokens = prompts(3, 32)
    ours = encoder.encode_image(pixels, Prompt(keys_values=[KeyValue(p) for p in tokens]))
    agree(ours, plain(family, encoder.backbone.model, pixels, tokens), [p for p in tokens if len(p)])


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_behind_the_patches(family, folders, pixels):
    encoder = encoder_of(folders[family])
    tokens = prompts(3, 32, (2, 3, 1))
    ours = encoder.encode_image(pixels, Prompt(tokens[0], tokens[1:]))
    agree(ours, plain(family, encoder.backbone.model, pixels, None, tokens), tokens)


def test_a_mixture_is_the_weighted_sum_of_attentions(folders, pixels):
    """DPL's published supernet on a ViT: with all weight on one candidate it is that candidate."""
    encoder = encoder_of(folders["vit"])
    tokens = prompts(3, 32, (3, 3, 3))
    weights = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    mixed = [KeyValue(p, weights, (1, 2)) for p in tokens]
    ours = encoder.encode_image(pixels, Prompt(keys_values=mixed))
    theirs = plain("vit", encoder.backbone.model, pixels, [p[1:] for p in tokens])
    torch.testing.assert_close(ours, theirs, **CLOSE)


# Classes are a head.


def test_the_head_starts_from_class_means_and_gives_scaled_cosines(folders, pixels):
    encoder = encoder_of(folders["dinov2"])
    method = get_method("dpl")(encoder, NAMES, get_method("dpl").Settings(vision_lengths=(1, 1, 1))).double()
    features, labels = encoder.encode_image(pixels), torch.tensor([0, 1, 2, 0])
    method.see(features, labels)
    first = F.normalize((features[0] + features[3]) / 2, dim=-1)
    torch.testing.assert_close(method.head[0], first, **CLOSE)
    theirs = 100 * method.image_features(pixels) @ F.normalize(method.head, dim=-1).T
    torch.testing.assert_close(method(pixels), theirs, rtol=1e-9, atol=1e-9)
    parameters = [p for objective in method.objectives() for p in objective.parameters]
    assert any(p is method.head for p in parameters)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear", {}),
        ("vpt", {"epochs": 1}),
        ("dpl", {"epochs": 1}),
        ("dpl", {"epochs": 1, "search": "alphas", "search_epochs": 1}),
        ("dpl", {"epochs": 1, "fresh": True}),
        ("clip_lora", {"epochs": 1}),
    ],
)
def test_methods_train_and_are_kept(name, settings, folders, photos, tmp_path):
    family = {"linear": "vit", "vpt": "dinov3_vit"}.get(name, "dinov2")
    images, labels = photos_and_labels(photos)
    classifier = PromptClassifier(name, str(folders[family]), settings, device="cpu").fit(images, labels)
    classifier.save(tmp_path / "kept")
    again = PromptClassifier.load(tmp_path / "kept", device="cpu")
    assert (again.predict_proba(images) == classifier.predict_proba(images)).all()
    assert classifier.score(images, labels) > 0.8  # colours


def test_searched_lengths_are_of_the_one_branch_and_within_the_budget(folders, photos):
    images, labels = photos_and_labels(photos)
    settings = {"epochs": 2, "budget": 5}
    classifier = PromptClassifier("dpl", str(folders["vit"]), settings, device="cpu").fit(images, labels)
    lengths = classifier.method_.lengths
    assert lengths.text == () and len(lengths.vision) == 3 and lengths.total == 5


@pytest.fixture(scope="module")
def tuned(folders, photos):
    images, labels = photos_and_labels(photos)
    settings = {"vision_lengths": (1, 0, 2), "epochs": 1}
    return PromptClassifier("dpl", str(folders["dinov3_vit"]), settings, device="cpu").fit(images, labels)


def test_classes_cannot_be_changed_by_name(tuned):
    with pytest.raises(
        UserError, match=r"reads no class names, so .* examples of new classes to add_classes"
    ):
        tuned.set_classes(["cat", "dog"])


def test_classes_are_added_from_examples(tuned, photos, tmp_path):
    tuned.save(tmp_path / "kept")
    more = PromptClassifier.load(tmp_path / "kept", device="cpu")
    white = [np.full((32, 32, 3), 250 + i, np.uint8) for i in range(4)]
    images = photos_and_labels(photos)[0]
    before = more.decision_function(images)
    more.add_classes(white, ["white"] * 4)
    assert list(more.predict(white)) == ["white"] * 4
    after = more.decision_function(images)
    np.testing.assert_allclose(after[:, :3], before, rtol=1e-5, atol=1e-4)
    more.save(tmp_path / "more")
    again = PromptClassifier.load(tmp_path / "more", device="cpu")
    assert list(again.classes_) == [*tuned.classes_, "white"]
    assert (again.decision_function(white) == more.decision_function(white)).all()
    with pytest.raises(UserError, match="class 'white' is known already"):
        again.add_classes(white, ["white"] * 4)


def test_a_clip_takes_new_classes_by_name_only(photos):
    images, labels = photos_and_labels(photos)
    classifier = PromptClassifier("zeroshot", "toy", device="cpu").fit(images, labels)
    with pytest.raises(UserError, match="has no head that classes could be added to: use set_classes"):
        classifier.add_classes(images[:1], ["new"])


def test_it_is_explained(tuned, photos):
    explanation = tuned.explain(photos_and_labels(photos)[0][0])
    assert explanation.heat.shape == (32, 32) and explanation.heat.max() == 1 and explanation.words == ()


def test_it_is_exported(tuned, photos, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(tuned, tmp_path / "c.onnx")
    images = photos_and_labels(photos)[0][:3]
    processor = tuned.method_.encoder.backbone.processor
    from vlprompt.data.transforms import EvalTransform

    session = onnxruntime.InferenceSession(str(tmp_path / "c.onnx"), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"pixel_values": EvalTransform(processor)(images).numpy()})[0]
    np.testing.assert_allclose(theirs, tuned.predict_proba(images), atol=1e-5)


def test_the_commands(folders, photos, tmp_path, capsys):
    model, out = folders["vit"], tmp_path / "out"
    fit = ("fit", photos, "--model", model, "--method", "dpl", "--epochs", 1, "--shots", 2, "--out", out)
    assert vlprompt(*fit, "--device", "cpu", "--json") == 0
    assert json.loads((out / "lengths.json").read_text())["text"] == []
    again = ("--lengths", out / "lengths.json", "--out", tmp_path / "again", "--device", "cpu")
    assert vlprompt(*fit[:-2], *again) == 0
    capsys.readouterr()
    assert vlprompt("evaluate", out, photos, "--json", "--device", "cpu") == 0
    assert json.loads(capsys.readouterr().out)["test"]["n"] == 21 - 6  # without those of the training
    photo = next(photos.rglob("*.png"))
    assert vlprompt("predict", out, photo, "--format", "json", "--device", "cpu") == 0
    assert vlprompt("predict", out, photo, "--classes", "cat", "dog", "--device", "cpu") == 2
    assert "reads no class names" in capsys.readouterr().err


# What is refused.


@pytest.mark.parametrize("name", ["zeroshot", "coop", "maple", "tip", "genpt"])
def test_methods_that_need_words_say_so(name, folders, photos):
    images, labels = photos_and_labels(photos)
    classifier = PromptClassifier(name, str(folders["vit"]), device="cpu")
    with pytest.raises(
        UserError, match=f"method '{name}' needs a text branch, which backbone .* use dpl"
    ) as e:
        classifier.fit(images, labels)
    assert "\n" not in str(e.value)


def test_settings_that_need_words_say_so(folders, photos):
    images, labels = photos_and_labels(photos)
    classifier = PromptClassifier("dpl", str(folders["vit"]), {"distill": 1.0, "epochs": 1}, device="cpu")
    with pytest.raises(UserError, match="has no text branch: it reads no words"):
        classifier.fit(images, labels)


def test_a_model_without_attention_layers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(UserError, match="is of type 'resnet', of which no layer is known that takes prompts"):
        load_backbone(str(tmp_path))


def test_the_toy_s_image_branch_alone():
    whole, alone = load_backbone("toy"), load_backbone("toy-vision")
    assert alone.tokenizer is None and alone.joint_width == whole.vision_width
    pixels = torch.randn(2, 3, 32, 32)
    feature = Encoder(alone).encode_image(pixels, normalize=False)
    theirs = whole.model.visual_projection(feature)
    torch.testing.assert_close(Encoder(whole).encode_image(pixels, normalize=False), theirs)
