"""GenPT: each of its pieces does what the docstring says, and is gone when it is switched off."""

import math
import sys
from pathlib import Path

import pytest
import torch
from text_fleet import Member, Told, train
from torch.nn import functional as F

from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch
from vlprompt.methods.genpt import info_nce
from vlprompt.methods.templates import template_features
from vlprompt.training.imageset import ImageSet
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions

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
    bare = make(encoder, images, mutual_information=0.0, augmentation="none").eval()
    losses = bare.loss(Batch(*images))
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


@pytest.mark.parametrize("augmentation", ["feature", "context", "none"])
def test_a_shift_that_is_zero_is_coop(encoder, images, augmentation):
    """At the start nothing is shifted, so every class has CoOp's feature."""
    method = make(encoder, images, augmentation=augmentation)
    coop = get_method("coop")
    plain = coop(encoder, NAMES, coop.Settings(ctx_init="a photo of a"), TEMPLATES)
    torch.testing.assert_close(method.class_features(), plain.class_features(), rtol=0, atol=1e-5)


def test_each_class_s_context_is_shifted_by_its_own_images(encoder, images):
    method = make(encoder, images, augmentation="context").eval()
    torch.nn.init.normal_(method.shift[2].weight)
    shift = method.shift(method.seen)
    expected = method.ctx + shift[:, None]
    torch.testing.assert_close(method.text_prompt().context, expected.flatten(0, 1))
    assert method.rows(NAMES)[1][1:5] == tuple(-1 - i for i in range(4, 8))  # class 1 has its own slots


def test_training_draws_convex_mixtures_of_a_class_s_images(encoder):
    torch.manual_seed(0)
    features = F.normalize(torch.randn(5, encoder.backbone.joint_width), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 2])
    method = make(encoder, (features, labels), augmentation="context", text_share=0.0).train()
    first, second = method.conditions(), method.conditions()
    torch.testing.assert_close(first[1:], features[3:])  # one image: nothing to mix
    assert not torch.allclose(first[0], second[0])
    weights = torch.linalg.lstsq(features[:3].T, first[0][:, None]).solution[:, 0]
    torch.testing.assert_close(features[:3].T @ weights, first[0], rtol=0, atol=1e-5)
    assert (weights > 0).all()


def test_a_part_of_the_classes_is_shifted_from_its_text(encoder, images):
    method = make(encoder, images, augmentation="context", text_share=1.0).train()
    torch.testing.assert_close(method.conditions(), method.from_text())


def test_new_classes_contexts_are_shifted_from_text_and_gap(encoder, images):
    method = make(encoder, images, augmentation="context").eval()
    seen = method.seen.clone()
    method.set_classes(("blue star", "black cross"))
    gap = (torch.stack([images[0][images[1] == k].mean(0) for k in range(3)]) - _handcrafted(encoder)).mean(0)
    expected = F.normalize(method.handcrafted[1] + gap, dim=-1)
    torch.testing.assert_close(method.seen[0], seen[1])
    torch.testing.assert_close(method.seen[1], expected)


def _handcrafted(encoder):
    return make(encoder).handcrafted


def test_without_augmentation_the_context_is_shared(encoder):
    method = make(encoder, augmentation="none")
    assert [name for name, _ in method.named_parameters()] == ["ctx"]
    assert method.text_prompt().context.shape == (4, encoder.backbone.text_width)


def test_features_are_shifted_by_what_a_name_differs_in_from_the_trained_ones(encoder, images):
    method = make(encoder, images).eval()
    centre = method.handcrafted.mean(0)
    torch.nn.init.normal_(method.feature_shift, std=0.1)
    plain = method.encoder.encode_text(method.sequences, method.text_prompt())
    moved = F.normalize(plain + (method.handcrafted - centre) @ method.feature_shift, dim=-1)
    torch.testing.assert_close(method.class_features(), moved)
    method.transfer(("black cross", "blue star"))
    plain = method.encoder.encode_text(method.sequences, method.text_prompt())
    moved = F.normalize(plain + (method.handcrafted - centre) @ method.feature_shift, dim=-1)
    torch.testing.assert_close(method.class_features(), moved)  # the centre stays that of the trained classes


def test_a_new_class_keeps_its_hand_crafted_prompts_and_gets_what_trained_names_explain(encoder, images):
    method = make(encoder, images, doubt=0.5).eval()
    torch.nn.init.normal_(method.feature_shift, std=0.1)
    centre = method.handcrafted.mean(0)
    names = method.handcrafted - centre  # (3, E)
    before = method.predicting_features()
    method.transfer(("black cross", "blue star"))
    new = method.handcrafted[0] - centre
    ridge = 0.5 * names.square().sum(-1).mean() * torch.eye(3)
    fitted = torch.linalg.solve(names @ names.T + ridge, names @ new) @ names  # ridge regression, (E,)
    share = fitted @ new / (new @ new)
    assert 0.02 < share < 0.98
    expected = F.normalize(method.handcrafted[0] + share * new @ method.feature_shift, dim=-1)
    torch.testing.assert_close(method.predicting_features()[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(method.predicting_features()[1], before[1])  # blue star was trained
    method.transfer(NAMES)
    torch.testing.assert_close(method.predicting_features(), before)


def test_a_name_that_trained_names_say_nothing_of_stays_as_zero_shot_clip_has_it(encoder, images):
    method = make(encoder, images).eval()
    torch.nn.init.normal_(method.feature_shift, std=0.1)
    names = method.handcrafted - method.centre
    method.transfer(("black cross", "blue star"))
    basis = torch.linalg.qr(names[:2].T).Q  # the three sum to nothing, so two span them
    new = method.handcrafted[0] - method.centre
    method.handcrafted[0] = method.centre + new - basis @ (basis.T @ new)
    kept = F.normalize(method.handcrafted, dim=-1)
    torch.testing.assert_close(method.predicting_features()[0], kept[0], rtol=0, atol=1e-5)


def test_without_doubt_a_new_class_is_predicted_as_a_trained_one(encoder, images):
    method = make(encoder, images, doubt=0.0, view_mix=1.0).eval()
    torch.nn.init.normal_(method.feature_shift, std=0.1)
    method.transfer(("black cross", "blue star"))
    torch.testing.assert_close(method.predicting_features(), method.class_features())


def test_a_large_shift_costs(encoder, images):
    method = make(encoder, images, mutual_information=0.0, shift_decay=0.5)
    torch.nn.init.normal_(method.feature_shift)
    losses = method.loss(Batch(*images))
    torch.testing.assert_close(losses["shift"], 0.5 * method.feature_shift.square().sum())
    torch.testing.assert_close(losses["loss"], losses["ce"] + losses["shift"])


def test_classifiers_of_0_1_0_say_by_yes_or_no_whether_they_shift_contexts():
    settings = get_method("genpt").Settings
    assert settings(augmentation=True).augmentation == "context"
    assert settings(augmentation=False).augmentation == "none"


# What each piece is for, on made-up images where its effect is certain.

OLD_WORLD = tuple(f"{colour} {shape}" for shape in ("circle", "star", "heart") for colour in ("red", "blue"))
NEW_WORLD = tuple(f"{colour} {shape}" for shape in ("square", "cross") for colour in ("red", "blue"))


def trained(encoder, features, labels, **settings):
    kind = get_method("genpt")
    quick = {"epochs": 15, "optimizer": "adamw", "lr": 0.01, "view_mix": 1.0}
    torch.manual_seed(1)
    method = kind(encoder, OLD_WORLD, kind.Settings(**quick | settings), TEMPLATES)
    method.see(features, labels)
    images = ImageSet(lambda at: features[at], labels)
    fit(method, {"train": images}, TrainOptions(device="cpu"), show=False)
    return method.eval()


def pictures(encoder, names):
    """Images in which red and blue are exchanged: 16 of each class, and their labels."""
    other = [name.replace("red", "x").replace("blue", "red").replace("x", "blue") for name in names]
    torch.manual_seed(3)
    shown = template_features(encoder, other, TEMPLATES).repeat(16, 1)  # (16 * K, E)
    noise = torch.randn_like(shown) * 0.2 / shown.shape[1] ** 0.5
    return F.normalize(shown + noise, dim=-1), torch.arange(len(names)).repeat(16)


def test_the_augmentation_carries_what_images_show_over_to_new_classes(encoder):
    """Red is seen as blue in the trained shapes; that it is so in new shapes only the shift can know."""
    accuracy = {}
    for augmentation in ("feature", "none"):
        method = trained(
            encoder, *pictures(encoder, OLD_WORLD), augmentation=augmentation, mutual_information=0.0
        )
        method.transfer(NEW_WORLD)
        features, labels = pictures(encoder, NEW_WORLD)
        accuracy[augmentation] = float((method(features).argmax(-1) == labels).double().mean())
    assert accuracy["feature"] > 0.95 and accuracy["none"] < 0.8, accuracy


def test_the_mutual_information_keeps_new_names_apart_whatever_the_images_say(encoder):
    """Images without any sense ruin the soft view of names that were never seen, unless it is held."""
    torch.manual_seed(0)
    features = F.normalize(torch.randn(96, encoder.backbone.joint_width), dim=-1)
    nats = {}
    for weight in (0.0, 3.0):
        method = trained(
            encoder, features, torch.arange(96) % 6, augmentation="none", mutual_information=weight, lr=0.05
        )
        method.transfer(NEW_WORLD)
        nats[weight] = math.log(4) - info_nce(method.class_features(), method.handcrafted, 0.07).item()
    assert nats[3.0] > 0.8 * math.log(4) and nats[0.0] < 0, nats


# What benchmarks/genpt_study.py trains.


@pytest.mark.parametrize("augmentation", ["feature", "context"])
def test_a_fleet_is_its_trainings_one_by_one(augmentation):
    """Every step, draws and schedule included, as of the training loop alone."""
    encoder = Encoder(load_backbone("toy", dtype=torch.float64))
    torch.manual_seed(0)
    width = encoder.backbone.joint_width
    features = [F.normalize(torch.randn(12, width, dtype=torch.float64), dim=-1) for _ in range(2)]
    labels = torch.arange(12) % 3
    kind = get_method("genpt")
    members, alone = [], []
    for seed, weight in ((1, 0.3), (2, 2.0)):
        images = ImageSet(lambda at, rows=features[seed - 1]: rows[at], labels)
        quick = {"epochs": 3, "batch_size": 5, "optimizer": "adamw", "lr": 0.01, "mutual_information": weight}
        for makes in ("member", "alone"):
            torch.manual_seed(seed)
            own = Told(encoder) if makes == "member" else encoder
            settings = kind.Settings(augmentation=augmentation, **quick)
            method = kind(own, NAMES, settings, TEMPLATES).double()
            method.see(features[seed - 1], labels)
            if makes == "member":
                members.append(Member(method, images, seed))
            else:
                fit(method, {"train": images}, TrainOptions(seed=seed, device="cpu"), show=False)
                alone.append(method)
    before = members[1].method.ctx.clone()
    train(encoder, members)
    for member, method in zip(members, alone, strict=True):
        for name, parameter in method.named_parameters():
            torch.testing.assert_close(member.method.get_parameter(name), parameter, rtol=0, atol=1e-9)
    assert (members[1].method.ctx - before).abs().max() > 1e-3


READINGS = str(Path(__file__).parent.parent / "benchmarks" / "genpt_readings.py")


@pytest.mark.parametrize(
    "reading",
    [{"information": name} for name in ("templates", "table", "structure", "decoder", "critic")]
    + [{"shift": name} for name in ("ridge", "mixtures", "subsets")]
    + [{"after_shift": True}],
)
def test_every_reading_that_was_tried_trains(encoder, images, reading):
    torch.manual_seed(1)
    kind = get_method(READINGS, files=True)
    method = kind(encoder, NAMES, kind.Settings(**reading), TEMPLATES)
    method.see(*images)
    losses = method.train().loss(Batch(*images))
    losses["loss"].backward()
    assert losses["loss"].isfinite() and method.ctx.grad.abs().max() > 0
    assert "mi" in losses and losses["mi"].requires_grad
    assert method.eval().predictor()(images[0]).shape == (12, 3)


def test_the_losses_between_views_are_what_they_are_named_after():
    of = sys.modules[get_method(READINGS, files=True).__module__]
    torch.manual_seed(0)
    sure = torch.eye(4, dtype=torch.float64).repeat(3, 1)  # four classes, each predicted as often
    assert of.joint_table(sure, sure).item() == pytest.approx(-math.log(4), abs=1e-9)
    assert of.joint_table(sure, torch.full_like(sure, 0.25)).item() == pytest.approx(0, abs=1e-9)
    s, h = (F.normalize(torch.randn(4, 6, dtype=torch.float64), dim=-1) for _ in range(2))
    assert of.structure(s, s, 0.1).item() == pytest.approx(0, abs=1e-12) and of.structure(s, h, 0.1) > 0.01
    assert of.decoder(s, s).item() == pytest.approx(0, abs=1e-12)
    both = (info_nce(s, h, 0.1) + info_nce(s, s, 0.1)) / 2
    torch.testing.assert_close(of.each_template(s, torch.stack([h, s]), 0.1), both)
