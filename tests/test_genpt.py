"""GenPT: each of its pieces does what the docstring says, and is gone when it is switched off."""

import math

import pytest
import torch
from torch.nn import functional as F

from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch
from vlprompt.methods.genpt import info_nce

NAMES = ("red circle", "blue star", "green heart")
TEMPLATES = ("a photo of a {}.", "a drawing of a {}.", "this is a {}.")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_backbone("toy"))


@pytest.fixture
def images(encoder):
    torch.manual_seed(0)
    return F.normalize(torch.randn(12, encoder.backbone.joint_width), dim=-1), torch.arange(12) % 3


def make(encoder, images=None, **settings):
    torch.manual_seed(1)
    kind = get_method("genpt")
    method = kind(encoder, NAMES, kind.Settings(**settings), TEMPLATES)
    if images is not None:
        method.see(*images)
    return method


def test_the_bound_is_log_k_for_views_that_agree_and_zero_for_views_that_tell_nothing():
    apart = torch.eye(5, dtype=torch.float64)
    assert info_nce(apart, apart, 1e-3).item() == pytest.approx(0, abs=1e-12)
    same = torch.ones(5, 4, dtype=torch.float64) / 2
    assert info_nce(same, same, 0.07).item() == pytest.approx(math.log(5))


def test_the_bound_is_the_mean_of_both_directions_as_written():
    torch.manual_seed(0)
    s, h = (F.normalize(torch.randn(4, 6, dtype=torch.float64), dim=-1) for _ in range(2))
    forward = [(s[k] @ h.T / 0.07).log_softmax(0)[k] for k in range(4)]
    back = [(h[k] @ s.T / 0.07).log_softmax(0)[k] for k in range(4)]
    expected = -(sum(forward) + sum(back)) / 8
    torch.testing.assert_close(info_nce(s, h, 0.07), expected, rtol=0, atol=1e-12)


def test_the_loss_is_cross_entropy_plus_the_weighted_mutual_information(encoder, images):
    method = make(encoder, images, mutual_information=3.0).eval()
    losses = method.loss(Batch(*images))
    expected = 3 * info_nce(method.class_features(), method.handcrafted, 0.07)
    torch.testing.assert_close(losses["mi"], expected)
    torch.testing.assert_close(losses["loss"], losses["ce"] + expected)
    assert losses["mi_nats"].item() == pytest.approx(math.log(3) - expected.item() / 3, abs=1e-5)


def test_without_mutual_information_the_loss_is_the_cross_entropy(encoder, images):
    losses = make(encoder, images, mutual_information=0.0).eval().loss(Batch(*images))
    assert set(losses) == {"loss", "ce"}
    torch.testing.assert_close(losses["loss"], losses["ce"], rtol=0, atol=0)


def test_a_learned_temperature_gets_a_gradient(encoder, images):
    method = make(encoder, images, learn_tau=True)
    method.loss(Batch(*images))["loss"].backward()
    assert method.log_tau.grad.abs() > 0


def test_the_number_of_templates_changes_the_hand_crafted_view(encoder):
    every, one = make(encoder), make(encoder, n_templates=1)
    assert not torch.allclose(every.handcrafted, one.handcrafted)
    zero = get_method("zeroshot")
    expected = zero(encoder, NAMES, zero.Settings(ensemble=False), TEMPLATES).class_features()
    torch.testing.assert_close(one.handcrafted, expected)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_predictions_mix_the_views(encoder, images, beta):
    method = make(encoder, images, view_mix=beta).eval()
    mixed = F.normalize(beta * method.class_features() + (1 - beta) * method.handcrafted, dim=-1)
    expected = encoder.logit_scale * images[0] @ mixed.T
    torch.testing.assert_close(method.predictor()(images[0]), expected)


def test_a_shift_that_is_zero_is_coop(encoder, images):
    """At the start the network h gives no shift, so every class has CoOp's context."""
    method = make(encoder, images)
    coop = get_method("coop")
    plain = coop(encoder, NAMES, coop.Settings(ctx_init="a photo of a"), TEMPLATES)
    torch.testing.assert_close(method.class_features(), plain.class_features(), rtol=0, atol=1e-5)


def test_each_class_is_shifted_by_its_own_images(encoder, images):
    method = make(encoder, images).eval()
    torch.nn.init.normal_(method.shift[2].weight)
    shift = method.shift(method.seen)
    expected = method.ctx + shift[:, None]
    torch.testing.assert_close(method.text_prompt().context, expected.flatten(0, 1))
    assert method.rows(NAMES)[1][1:5] == tuple(-1 - i for i in range(4, 8))  # class 1 has its own slots


def test_training_draws_convex_mixtures_of_a_class_s_images(encoder):
    torch.manual_seed(0)
    features = F.normalize(torch.randn(5, encoder.backbone.joint_width), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 2])
    method = make(encoder, (features, labels), text_share=0.0).train()
    first, second = method.conditions(), method.conditions()
    torch.testing.assert_close(first[1:], features[3:])  # one image: nothing to mix
    assert not torch.allclose(first[0], second[0])
    weights = torch.linalg.lstsq(features[:3].T, first[0][:, None]).solution[:, 0]
    torch.testing.assert_close(features[:3].T @ weights, first[0], rtol=0, atol=1e-5)
    assert (weights > 0).all()


def test_a_part_of_the_classes_is_shifted_from_its_text(encoder, images):
    method = make(encoder, images, text_share=1.0).train()
    torch.testing.assert_close(method.conditions(), method.from_text())


def test_new_classes_are_shifted_from_text_and_gap(encoder, images):
    method = make(encoder, images).eval()
    seen = method.seen.clone()
    method.set_classes(("blue star", "black cross"))
    gap = (torch.stack([images[0][images[1] == k].mean(0) for k in range(3)]) - _handcrafted(encoder)).mean(0)
    expected = F.normalize(method.handcrafted[1] + gap, dim=-1)
    torch.testing.assert_close(method.seen[0], seen[1])
    torch.testing.assert_close(method.seen[1], expected)


def _handcrafted(encoder):
    return make(encoder).handcrafted


def test_without_augmentation_the_context_is_shared(encoder):
    method = make(encoder, augmentation=False)
    assert [name for name, _ in method.named_parameters()] == ["ctx"]
    assert method.text_prompt().context.shape == (4, encoder.backbone.text_width)
