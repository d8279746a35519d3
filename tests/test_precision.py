"""What is frozen in bfloat16, and logits in float32 under any autocast."""

import copy

import numpy as np
import pytest
import torch

from support import photos_and_labels, random_encoder, random_split, write_clip, write_photos
from vlprompt import PromptClassifier
from vlprompt.engine import precision
from vlprompt.engine.linear import FrozenLinear, keep_casts
from vlprompt.engine.prompt import Prompt
from vlprompt.estimator import fitting
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch

NAMES = ("blue square", "green", "red thing")


@pytest.fixture
def encoder():
    return random_encoder(torch.float32)


@pytest.fixture
def pixels():
    return random_split().images(torch.arange(9))


def test_frozen_features_are_near_and_in_float32(encoder, pixels):
    exact = encoder.encode_image(pixels)
    encoder.frozen_dtype = torch.bfloat16
    rough = encoder.encode_image(pixels)
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.02)
    torch.testing.assert_close(rough.norm(dim=-1), torch.ones(9), rtol=0, atol=1e-6)
    cosine, others = precision.change(exact, rough, exact[:3])
    assert 0.999 < cosine < 1 and 0 <= others <= 2


def test_what_is_learned_stays_in_float32(encoder, pixels):
    prompt = Prompt(torch.randn(2, encoder.backbone.vision_width))
    exact = encoder.encode_image(pixels, prompt)
    encoder.frozen_dtype = torch.bfloat16
    assert torch.equal(encoder.encode_image(pixels, prompt), exact)


def test_logits_keep_float32_under_autocast(encoder, pixels):
    """In bfloat16 logits near 30 would be multiples of 1/8."""
    method = get_method("coop")(encoder, NAMES)
    with torch.autocast("cpu", torch.bfloat16):
        losses = method.loss(Batch(pixels, torch.arange(9) % 3))
        logits = method(pixels)
    assert logits.dtype == losses["loss"].dtype == torch.float32
    assert (logits * 8 % 1).abs().max() > 1e-3


def test_weights_are_cast_once_and_to_the_same_bits(encoder):
    """As autocast casts them in every call; float32 stays as it was, and changed weights are cast anew."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(32, 16).requires_grad_(False)
    ours, x = copy.deepcopy(plain), torch.randn(5, 32, requires_grad=True)
    keep_casts(ours)
    exact = plain(x)

    def half(layer: torch.nn.Module) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        return [y, *torch.autograd.grad(y.float().square().sum(), x)]

    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(half(ours), half(plain), strict=True))
        weight = ours._kept[1]
        half(ours)
        assert ours._kept[1] is weight and weight.dtype == torch.bfloat16
        assert torch.equal(ours(x), plain(x)) and ours.weight is not weight
        for layer in (ours, plain):
            layer.weight.mul_(1.5)
    assert not torch.equal(ours(x), exact)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    layers = [m for m in encoder.backbone.model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 6 * 5 + 2 and all(isinstance(layer, FrozenLinear) for layer in layers)


def replace_parameter(layer: torch.nn.Linear) -> None:
    layer.weight = torch.nn.Parameter(torch.ones(4, 8).mul_(3), requires_grad=False)


def move(layer: torch.nn.Linear) -> None:
    layer.weight.data = torch.ones(4, 8)


def load_anew(layer: torch.nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.ones(4, 8), "bias": torch.ones(4)}, assign=True)


def change_bias(layer: torch.nn.Linear) -> None:
    layer.bias.add_(1)


@pytest.mark.parametrize("change", [replace_parameter, move, load_anew, change_bias])
def test_other_weights_are_cast_anew(change):
    layer, x = torch.nn.Linear(8, 4).requires_grad_(False), torch.randn(2, 8)
    keep_casts(layer)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        change(layer)
        plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
        assert torch.equal(layer(x), plain) and not torch.equal(plain, before)


def test_in_inference_mode_nothing_is_kept_that_a_training_could_not_use():
    layer, x = torch.nn.Linear(8, 4).requires_grad_(False), torch.randn(2, 8, requires_grad=True)
    keep_casts(layer)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            expected = layer(x)
            made_here = copy.deepcopy(layer)
            assert torch.equal(made_here(x), expected)
        assert torch.equal(made_here(x.detach()), expected)
        layer(x).sum().backward()
    assert x.grad is not None


def test_auto_leaves_small_backbones_and_exact_ones_alone(encoder):
    assert not precision.worth_trying(encoder)
    assert not precision.worth_trying(random_encoder(torch.float64))


@pytest.mark.skipif(not precision.has_bfloat16(torch.device("cpu")), reason="a processor without bfloat16")
@pytest.mark.parametrize("stands", [True, False])
def test_auto_measures_says_and_is_recorded(stands, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "WORTH", 1)
    monkeypatch.setattr(fitting, "STANDS", 0.99 if stands else 1.01)
    images, labels = photos_and_labels(write_photos(tmp_path / "photos"))
    clip = str(write_clip(tmp_path / "clip"))
    exact = PromptClassifier("zeroshot", clip, precision="no", device="cpu").fit(images, labels)
    auto = PromptClassifier("zeroshot", clip, device="cpu", verbose=True).fit(images, labels)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{'bfloat16' if stands else 'float32'} for what is frozen: in bfloat16 the features of 16" in said
    auto.save(tmp_path / "kept")
    loaded = PromptClassifier.load(tmp_path / "kept", device="cpu")
    expected, ours = exact.predict_proba(images), auto.predict_proba(images)
    assert np.array_equal(ours, expected) != stands
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0.05)
    assert np.array_equal(loaded.predict_proba(images), ours)
