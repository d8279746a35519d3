"""Every method: published settings, training, keeping, other classes, and its terms."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from support import (
    NAMES,
    photos_and_labels,
    random_encoder,
    random_split,
    same_bits,
    toy_encoder,
    write_photos,
)
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import MARK
from vlprompt.methods import all_methods, get_method
from vlprompt.methods.base import Batch
from vlprompt.methods.dpl.dpl import DPL
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.lengths import Lengths
from vlprompt.training.imageset import ImageSet
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions

JOINED = ("dpl+kgcoop", "dpl+prograd", "dpl+promptsrc", "ivlp+kgcoop+prograd", "dpl+tcp", "mma+kgcoop")
JOINED += ("maple+atprompt", "atprompt+kgcoop", "dpl+coprompt", "coop+coprompt", "dpl+mmrl", "coop+mmrl")
EVERY = (*all_methods(), *JOINED)
BOUND = ("linear", "taskres")
"""To the classes that were trained."""
TAUGHT = ("promptkd",)
"""By a teacher, of whose classes it knows no others."""
QUICK = {"epochs": 1, "search_epochs": 1, "batch_size": 4}
FEATURES = {"rtol": 0, "atol": 1e-12}


def quick(name: str, **changes) -> dict:
    """Settings for one epoch, those that the method has."""
    known = get_method(name).Settings().__dataclass_fields__
    fixed = {"epochs": 0} if name in ("zeroshot", "linear") else {}
    return {k: v for k, v in (QUICK | changes | fixed).items() if k in known}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photos_and_labels(write_photos(tmp_path_factory.mktemp("photos"), each=4))


@pytest.fixture(scope="module")
def fitted(photos, tmp_path_factory):
    """Name -> classifier after one epoch, made once."""
    made = {}

    def get(name):
        if name not in made:
            settings = quick(name)
            if name in TAUGHT:
                settings["teacher"] = str(tmp_path_factory.mktemp("teacher") / "zeroshot")
                get("zeroshot").save(settings["teacher"])
            made[name] = PromptClassifier(name, settings=settings).fit(*photos)
        return made[name]

    return get


# Published settings (spec/methods.md).

SGD = {"momentum": 0.9, "weight_decay": 5e-4}
WORDS = "a photo of a"
PUBLISHED = {
    "coop": {"n_ctx": 16, "ctx_init": "", "lr": 0.002, "epochs": 200, "batch_size": 32} | SGD,
    "cocoop": {"n_ctx": 4, "ctx_init": WORDS, "lr": 0.002, "epochs": 10, "batch_size": 1} | SGD,
    "vpt": {"n_ctx": 8, "depth": 12, "lr": 0.0025, "epochs": 5, "batch_size": 4} | SGD,
    "ivlp": {"n_ctx": 2, "depth": 12, "ctx_init": WORDS, "lr": 0.0035, "epochs": 5, "batch_size": 4} | SGD,
    "maple": {"n_ctx": 2, "depth": 9, "ctx_init": WORDS, "lr": 0.0035, "epochs": 5, "batch_size": 4} | SGD,
    "kgcoop": {"ctx_init": WORDS, "lr": 0.002, "epochs": 100, "batch_size": 128, "knowledge": 8.0} | SGD,
    "prograd": {"n_ctx": 16, "lr": 0.002, "epochs": 200, "batch_size": 32, "projection": 1.0} | SGD,
    "promptsrc": {"n_ctx": 4, "depth": 9, "lr": 0.0025, "epochs": 20, "batch_size": 4} | SGD
    | {"text_weight": 25.0, "image_weight": 10.0, "gpa_mean": 15.0, "gpa_std": 1.0},
    "clip_adapter": {"lr": 1e-5, "batch_size": 32, "ratio": 0.2},
    "taskres": {"optimizer": "adam", "lr": 2e-3, "epochs": 200, "batch_size": 256, "weight_decay": 5e-4}
    | {"alpha": 0.5, "underscores": False},
    "tcp": {"optimizer": "adam", "eps": 1e-3, "lr": 2e-3, "epochs": 50, "batch_size": 32, "n_ctx": 4}
    | {"class_tokens": 4, "class_layer": 9, "knowledge": 8.0, "weight_decay": 5e-4},
    "clip_lora": {"optimizer": "adamw", "lr": 2e-4, "weight_decay": 1e-2, "batch_size": 32, "rank": 2}
    | {"alpha": 1.0, "dropout": 0.25, "momentum": 0.9},
    "mmrl": {"optimizer": "adamw", "lr": 1e-3, "epochs": 10, "batch_size": 4, "n_tokens": 5, "width": 512}
    | {"start": 6, "alpha": 0.7, "regularization": 0.5, "weight_decay": 5e-4},
    "coprompt": {"n_ctx": 2, "depth": 9, "ctx_init": WORDS, "lr": 0.0035, "epochs": 8, "batch_size": 4} | SGD
    | {"consistency": 8.0, "image_ratio": 0.1, "text_ratio": 0.2},
    "atprompt": {"n_ctx": 2, "ctx_init": "", "lr": 0.002, "epochs": 100, "batch_size": 32} | SGD
    | {"attributes": ("color", "shape"), "attribute_lengths": (2,), "one_token": False},
    "mma": {"lr": 0.0015, "epochs": 5, "batch_size": 16, "start": 5, "width": 32, "scale": 0.001} | SGD,
    "promptkd": {"lr": 0.005, "epochs": 20, "batch_size": 8, "n_ctx": 4, "depth": 9} | SGD
    | {"distill": 1000.0, "temperature": 1.0},
    "dpl": {"lr": 0.0035, "epochs": 40, "search_epochs": 80, "batch_size": 4, "alpha_lr": 0.0035} | SGD
    | {"text_max": 6, "vision_max": 6},
}  # fmt: skip
PRESETS = {
    ("vpt", "shallow"): {"depth": 1},
    ("taskres", "vit-b16"): {"lr": 2e-4, "epochs": 200},
    ("mma", "imagenet"): {"batch_size": 128},
    ("mmrl", "few-shot"): {"batch_size": 32, "epochs": 50},
    ("mmrl", "cross-dataset"): {"batch_size": 32, "epochs": 1, "warmup": False, "regularization": 0.2},
    ("mmrl", "imagenet"): {"batch_size": 32, "epochs": 5},
    ("promptkd", "cross-dataset"): {"depth": 3},
    ("coprompt", "released"): {"consistency": 1.0},
    ("atprompt", "cross-dataset"): {"epochs": 10, "n_ctx": 4, "attribute_lengths": (4,)},
    ("maple", "cross-dataset"): {"depth": 3},
    ("promptsrc", "few-shot"): {"epochs": 50, "gpa_mean": 30.0, "gpa_std": 30.0},
    ("promptsrc", "cross-dataset"): {"depth": 3, "gpa_mean": 6.0, "gpa_std": 10.0},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name):
    for settings in (get_method(name).Settings(), get_method(name).settings_for(16)):
        for key, value in PUBLISHED[name].items():
            assert getattr(settings, key) == value, key


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_are_the_published_ones(name, preset):
    changes = get_method(name).preset(preset)
    settings = get_method(name).settings_for(16, **changes)
    for key, value in PRESETS[name, preset].items():
        assert getattr(settings, key) == value, key


@pytest.mark.parametrize("name", ["coop", "prograd"])
def test_epochs_of_coop_follow_from_the_shots(name):
    epochs = {shots: get_method(name).settings_for(shots).epochs for shots in (1, 2, 4, 8, 16, None)}
    assert epochs == {1: 50, 2: 100, 4: 100, 8: 200, 16: 200, None: 200}
    assert get_method(name).settings_for(1, epochs=7).epochs == 7
    assert get_method("kgcoop").settings_for(1).epochs == 100


def test_every_method_says_what_it_is():
    for name, kind in all_methods().items():
        assert kind.name == name and kind.title and kind.learns and kind.__doc__
        assert 2021 <= kind.year <= 2025 and (kind.paper[:2].isdigit() or kind.paper.startswith("CVPR "))
    assert {"zeroshot", *PUBLISHED} <= set(all_methods())


def test_an_unknown_method_is_answered_with_the_list():
    with pytest.raises(UserError, match=r"unknown method 'copo': there are .*coop.*dpl"):
        get_method("copo")
    with pytest.raises(UserError, match="'vpt' has no preset 'x': there is shallow, deep"):
        get_method("vpt").preset("x")


@pytest.mark.parametrize("name", ["dpl+coop", "cocoop+kgcoop", "dpl+nothing", "+", "dpl+"])
def test_what_cannot_be_joined_is_refused(name):
    with pytest.raises(UserError, match="method"):
        get_method(name)


# Training, keeping, other classes.


@pytest.mark.parametrize("name", EVERY)
def test_it_trains_an_epoch_and_is_the_same_after_saving_and_loading(name, fitted, photos, tmp_path):
    classifier = fitted(name)
    losses = [value for record in classifier.history_ for key, value in record.items() if key == "loss"]
    assert np.isfinite(losses).all() and (losses or name in ("zeroshot", "linear", "tip"))
    before = classifier.predict_proba(photos[0])
    assert before.shape == (12, 3) and np.isfinite(before).all()
    classifier.save(tmp_path / "kept")
    loaded = PromptClassifier.load(tmp_path / "kept")
    assert np.array_equal(before, loaded.predict_proba(photos[0]))
    assert loaded.history_ == json.loads(json.dumps(classifier.history_))
    assert list(loaded.predict(photos[0])) == list(classifier.predict(photos[0]))


@pytest.mark.parametrize("name", EVERY)
def test_other_classes_by_their_names_alone(name, fitted, photos):
    classifier = copy.deepcopy(fitted(name))
    before = classifier.predict_proba(photos[0])
    others = ("apple", "blue square", "snow leopard", "jet_plane")
    if name in (*BOUND, *TAUGHT):
        with pytest.raises(UserError, match="the classes that it was trained on"):
            classifier.set_classes(others)
        assert np.array_equal(classifier.predict_proba(photos[0]), before)
        return
    classifier.set_classes(others)
    after = classifier.predict_proba(photos[0])
    assert after.shape == (12, 4) and np.allclose(after.sum(1), 1)
    assert set(classifier.predict(photos[0])) <= set(others)
    classifier.set_classes(NAMES)
    if name != "tip":  # its cached images are gone with their classes
        assert np.array_equal(classifier.predict_proba(photos[0]), before)


def test_a_linear_probe_predicts_by_its_weights(fitted, photos):
    method = fitted("linear").method_
    features = torch.randn(5, method.encoder.backbone.joint_width)
    expected = features @ method.weight.T + method.bias
    torch.testing.assert_close(method.predictor()(features), expected)
    assert fitted("linear").score(*photos) == 1.0  # it is solved on these very images


def test_tip_keeps_the_images_of_classes_that_stay(photos):
    classifier = PromptClassifier("tip").fit(*photos)
    method, whole = classifier.method_, classifier.predict_proba(photos[0])
    classifier.set_classes(("red thing", "green", "blue square"))
    assert np.allclose(classifier.predict_proba(photos[0]), whole[:, ::-1], atol=1e-6)
    classifier.set_classes(("apple", "green"))
    assert len(method.keys) == 4 and method.key_labels.tolist() == [1] * 4
    method.keys.data, method.key_labels.data = method.keys[:0], method.key_labels[:0]
    zeroshot = PromptClassifier("zeroshot").fit(*photos).set_classes(("apple", "green"))
    assert np.allclose(classifier.predict_proba(photos[0]), zeroshot.predict_proba(photos[0]), atol=1e-6)


@pytest.mark.parametrize("others", [("apple", "pear"), ("apple", "pear", "plum"), NAMES[::-1]])
def test_a_class_specific_context_serves_no_other_classes(others, photos):
    settings = quick("coop", class_specific=True, n_ctx=2)
    classifier = PromptClassifier("coop", settings=settings).fit(*photos)
    before = classifier.predict_proba(photos[0])
    with pytest.raises(UserError, match=r"class-specific context .*class_specific=False") as error:
        classifier.set_classes(others)
    assert "\n" not in str(error.value)
    assert np.array_equal(classifier.predict_proba(photos[0]), before) and classifier.classnames_ == NAMES


@pytest.mark.parametrize("name", ["zeroshot", "coop", "promptsrc", "dpl", "tip"])
def test_a_name_that_is_too_long_is_named_and_changes_nothing(name, photos, fitted):
    classifier = copy.deepcopy(fitted(name))
    before = classifier.predict_proba(photos[0])
    with pytest.raises(UserError, match=r"zq zq.*77"):
        classifier.set_classes(("apple", "zq " * 90))
    assert np.array_equal(classifier.predict_proba(photos[0]), before)
    assert classifier.method_.classnames == classifier.classnames_ == NAMES


@pytest.mark.parametrize("name", ["coop", "vpt", "ivlp", "maple", "kgcoop", "prograd", "promptsrc", "dpl"])
def test_training_lowers_the_loss(name):
    """On pictures that it can tell apart, whatever the weights of the backbone."""
    kind, encoder = get_method(name), random_encoder(torch.float32)
    torch.manual_seed(1)
    settings = kind.Settings(**quick(name, epochs=15, search_epochs=2, lr=0.002, batch_size=9))
    split = random_split()
    splits = {"train": split, "val": split}
    method = kind(encoder, NAMES, settings)
    records = [
        r for r in fit(method, splits, TrainOptions(device="cpu"), show=False) if r["stage"] == "train"
    ]
    assert records[-1]["loss"] < 0.99 * records[0]["loss"]


def test_settings_that_make_no_sense_are_refused():
    wrong = {"epochs": -1, "batch_size": 0, "lr": float("nan"), "n_ctx": -1, "momentum": -0.1}
    for name, value in wrong.items():
        with pytest.raises(UserError, match=name):
            get_method("coop").Settings(**{name: value})
    wrong = {"text_max": -1, "vision_lengths": (1, -1), "distill": float("inf"), "budget": 2.5}
    for name, value in wrong.items():
        with pytest.raises(UserError, match=name):
            get_method("dpl").Settings(**{name: value})


def test_taskres_has_fewer_epochs_for_fewer_shots():
    epochs = {shots: get_method("taskres").settings_for(shots).epochs for shots in (1, 2, 4, 8, 16, None)}
    assert epochs == {1: 100, 2: 100, 4: 100, 8: 200, 16: 200, None: 200}


def test_lora_takes_500_steps_a_shot_whatever_the_classes():
    method = make("clip_lora")
    assert method.settings.epochs == 5334  # of 3 classes: 3 / 32 steps a pass and shot
    assert make("clip_lora", epochs=7).settings.epochs == 7


def test_rates_that_are_no_field_schedule():
    lora, mma = make("clip_lora", epochs=4), make("mma")
    rates = [lora.learning_rate(at, 4) for at in (0, 4 / 3, 2, 4)]
    assert rates == pytest.approx([2e-4, 1e-6 + 1.99e-4 * 0.75, 1.005e-4, 1e-6])
    assert [mma.learning_rate(at, 2) for at in (0, 0.9, 1)] == pytest.approx([0.0015, 0.0015, 0.00075])


# The terms. Each of these tests fails when its term is taken away.


def make(name: str, encoder=None, templates=("a photo of a {}.",), **settings):
    """A method in double precision."""
    encoder, kind = encoder or random_encoder(), get_method(name)
    torch.manual_seed(2)
    return kind(encoder, NAMES, kind.Settings(**settings), templates).double()


def batch(labels=(0, 1, 2, 0)) -> Batch:
    pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return Batch(pixels, torch.tensor(labels))


def gradient(method, loss) -> torch.Tensor:
    return torch.autograd.grad(loss, method.ctx, retain_graph=True)[0]


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_prograd_takes_away_what_points_against_zeroshot(share):
    method = make("prograd", projection=share, n_ctx=3)
    for labels in ((0, 1, 2, 0), (1, 2, 0, 1), (2, 0, 1, 2), (2, 2, 2, 2)):
        losses = method.loss(batch(labels))
        logits = method(batch().images)
        with torch.no_grad():
            zeroshot = make("zeroshot", method.encoder)(batch().images).softmax(-1)
        kl = -(zeroshot * logits.log_softmax(-1)).sum(-1).mean()
        ce, general = gradient(method, F.cross_entropy(logits, torch.tensor(labels))), gradient(method, kl)
        method.ctx.grad = None
        method.backward(losses, torch.Tensor.backward)
        along = (ce * general).sum()
        expected = ce if along >= 0 else ce - share * along / (general**2).sum() * general
        torch.testing.assert_close(method.ctx.grad, expected, **FEATURES)
        if along < 0:
            assert (method.ctx.grad - ce).norm() > 1e-3 * ce.norm()
            break
    else:
        pytest.fail("no gradients in conflict: nothing was tested")


def test_kgcoop_adds_the_distance_to_the_handcrafted_features():
    method = make("kgcoop")
    losses = method.loss(batch())
    handcrafted = make("zeroshot", method.encoder).class_features()
    apart = 8 * (1 - F.cosine_similarity(method.class_features(), handcrafted).mean())
    ce = F.cross_entropy(method(batch().images), batch().labels)
    torch.testing.assert_close(losses["loss"], ce + apart, **FEATURES)
    with torch.no_grad():
        method.ctx += torch.randn_like(method.ctx)
    assert method.loss(batch())["kg"] > 1e-3


def test_kgcoop_stays_nearer_to_the_handcrafted_features_than_coop():
    def apart(knowledge):
        encoder = random_encoder(torch.float32)
        kind = get_method("kgcoop")
        settings = kind.Settings(epochs=15, batch_size=9, lr=0.001, knowledge=knowledge)
        method = kind(encoder, NAMES, settings)
        fit(method, {"train": random_split()}, TrainOptions(device="cpu"), show=False)
        with torch.no_grad():
            return float(1 - (method.class_features() * method.knowledge_features).sum(-1).mean())

    assert apart(8.0) < 0.5 * apart(0.0)


def test_promptsrc_adds_three_consistency_losses():
    texts = ("a photo of a {}.", "this is {}.", "{}.")
    method = make("promptsrc", templates=texts, n_ctx=2, depth=2)
    losses, encoder = method.loss(batch()), method.encoder
    with torch.no_grad():
        frozen = encoder.encode_image(batch().images)
        each = [
            encoder.encode_text(encoder.tokenize([t.format(n) for n in NAMES]), normalize=False)
            for t in texts
        ]
        teacher = F.normalize(sum(each), dim=-1)
        target = (encoder.logit_scale * frozen @ teacher.T).log_softmax(-1)
    classes, images = method.class_features(), method.image_features(batch().images)
    logits = method(batch().images)
    terms = [
        F.cross_entropy(logits, batch().labels),
        25 * (classes - teacher).abs().mean(),
        10 * (images - frozen).abs().mean(),
        F.kl_div(logits.log_softmax(-1), target, reduction="sum", log_target=True) / logits.numel(),
    ]
    torch.testing.assert_close(losses["loss"], sum(terms), **FEATURES)
    assert all(term > 1e-6 for term in terms)


def test_promptsrc_ends_with_the_gaussian_average_of_its_prompts():
    def prompts(std, epochs):
        torch.manual_seed(1)
        kind = get_method("promptsrc")
        settings = kind.Settings(epochs=4, batch_size=4, lr=0.5, gpa_mean=3.0, gpa_std=std, n_ctx=2)
        method, seen = kind(random_encoder(torch.float32), NAMES, settings), []
        keep = lambda _: seen.append([p.detach().clone() for p in method.parameters()])  # noqa: E731
        fit(method, {"train": random_split()}, TrainOptions(device="cpu"), show=False, on_epoch=keep)
        return seen[epochs]

    weights = torch.tensor([np.exp(-((e - 3.0) ** 2) / (2 * 1.5**2)) for e in (1, 2, 3, 4)])
    weights /= weights.sum()
    each = [prompts(0.0, epoch) for epoch in range(4)]
    average = prompts(1.5, -1)
    for i, ours in enumerate(average):
        expected = sum(w * epoch[i].double() for w, epoch in zip(weights, each, strict=True))
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-6)
        assert (ours - each[-1][i]).abs().max() > 1e-4


def test_dpl_distils_from_zeroshot():
    texts = ("a picture of {}.", "this is {}.")
    given = {"text_lengths": (2, 0), "vision_lengths": (1, 3, 0)}
    method = make("dpl", templates=texts, distill=3.0, **given)
    losses = method.loss(batch())
    with torch.no_grad():
        target = make("zeroshot", method.encoder, texts)(batch().images).log_softmax(-1)
    logits = method(batch().images)
    kl = F.kl_div(logits.log_softmax(-1), target, reduction="sum", log_target=True) / logits.numel()
    ce = F.cross_entropy(logits, batch().labels)
    assert kl > 1e-6
    torch.testing.assert_close(losses["loss"], ce + 3 * kl, **FEATURES)
    plain = make("dpl", method.encoder, templates=texts, **given)
    torch.testing.assert_close(plain.loss(batch())["loss"], ce, **FEATURES)


@pytest.mark.parametrize("added", ["kgcoop", "promptsrc"])
def test_a_joined_method_has_the_terms_of_both(added):
    given = {"text_lengths": (2, 0), "vision_lengths": (1, 3, 0)}
    encoder = random_encoder()
    alone, joined = make("dpl", encoder, **given), make(f"dpl+{added}", encoder, **given)
    assert same_bits(dict(alone.named_parameters()), dict(joined.named_parameters()))
    terms, plain = joined.loss(batch()), alone.loss(batch())
    assert torch.equal(terms["ce"], plain["ce"]) and terms["loss"] > plain["loss"]
    assert isinstance(joined, DPL) and joined.settings.search_epochs == 80


# What stands beside layers, and adapters.


@pytest.mark.parametrize("name", ["clip_adapter", "taskres", "mma", "clip_lora"])
def test_without_what_it_learned_it_is_zeroshot(name):
    method = make(name, templates=("this is {}.",)).eval()
    for key, parameter in method.named_parameters():
        if name in ("clip_adapter", "taskres") or "up" in key or key.endswith(".b"):
            parameter.data.zero_()
    zeroshot = make("zeroshot", method.encoder, ("this is {}.",), ensemble=False)
    torch.testing.assert_close(method(batch().images), zeroshot(batch().images), **FEATURES)
    torch.manual_seed(0)
    for parameter in method.parameters():
        parameter.data += torch.randn_like(parameter)
    assert (method(batch().images) - zeroshot(batch().images)).abs().max() > 1e-3


def test_mma_moves_its_adapters_as_if_they_were_not_scaled_down():
    """The gradient of the parameters is without ``scale``, that of lower layers with it."""
    method = make("mma", start=2, width=4, scale=0.01)
    for parameter in method.parameters():  # biases away from zero, where ReLU has no gradient
        parameter.data += 0.3 * torch.randn_like(parameter)
    losses = method.loss(batch())
    names = [n for n, _ in method.named_parameters()]
    ours = torch.autograd.grad(losses["loss"], list(method.parameters()))
    step = 1e-4
    for name, gradient in zip(names, ours, strict=True):
        parameter, direction = method.get_parameter(name), torch.randn_like(gradient)
        sides = []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            sides.append(method.loss(batch())["loss"].item())
            parameter.data -= sign * step * direction
        true = (sides[0] - sides[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(true / 0.01, rel=1e-3, abs=1e-6), name


def test_lora_drops_in_training_alone_and_in_every_sequence_on_its_own():
    method = make("clip_lora", dropout=0.5)
    for parameter in method.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    assert method.train().text_prompt().noisy and not method.eval().text_prompt().noisy
    first, second = (method.eval()(batch().images) for _ in range(2))
    assert torch.equal(first, second)
    first, second = (method.train()(batch().images) for _ in range(2))
    assert (first - second).abs().max() > 1e-3
    assert not make("clip_lora", dropout=0.0).train().text_prompt().noisy


def test_mmrl_predicts_other_classes_by_the_class_token_alone():
    method = make("mmrl", width=16).eval()
    classes, (images, tokens) = method.class_features(), method.image_features(batch().images).unbind(1)
    scale = method.encoder.logit_scale
    mixed = scale * (0.7 * images + 0.3 * tokens) @ classes.T
    torch.testing.assert_close(method(batch().images), mixed, **FEATURES)
    method.set_classes((*NAMES[:2], "apple"))
    expected = scale * images @ method.class_features().T
    torch.testing.assert_close(method(batch().images), expected, **FEATURES)
    method.set_classes(NAMES[:2])
    torch.testing.assert_close(method(batch().images), mixed[:, :2], **FEATURES)


def test_mmrl_adds_the_distances_to_frozen_clip():
    method = make("mmrl", width=16, regularization=3.0, alpha=0.6)
    with torch.no_grad():
        frozen = method.encoder.encode_image(batch().images)
        handcrafted = make("zeroshot", method.encoder, ensemble=False).class_features()
    classes, (images, tokens) = method.class_features(), method.image_features(batch().images).unbind(1)
    scale = method.encoder.logit_scale
    terms = [
        0.6 * F.cross_entropy(scale * images @ classes.T, batch().labels),
        0.4 * F.cross_entropy(scale * tokens @ classes.T, batch().labels),
        3 * (1 - F.cosine_similarity(images, frozen).mean()),
        3 * (1 - F.cosine_similarity(classes, handcrafted).mean()),
    ]
    torch.testing.assert_close(method.loss(batch())["loss"], sum(terms), **FEATURES)
    assert all(term > 1e-6 for term in terms)


def test_mmrl_is_not_put_where_other_tokens_stand():
    for name in ("vpt+mmrl", "ivlp+mmrl", "maple+mmrl"):
        with pytest.raises(UserError, match="would take the place of other deep or visual tokens") as error:
            make(name)
        assert "\n" not in str(error.value)
    both, mmrl = make("coop+mmrl", width=16, n_ctx=2), make("mmrl", width=16)
    assert (
        both.text_prompt().context.shape == (2, 32) and both.loss(batch()).keys() == mmrl.loss(batch()).keys()
    )
    with torch.no_grad():
        features = both.class_features()
        both.ctx += torch.randn_like(both.ctx)
        assert (both.class_features() - features).abs().max() > 1e-4, "the context plays no part"


def test_what_is_added_needs_its_branches():
    assert get_method("dpl").needs == set() and get_method("dpl+mmrl").needs == {"text", "vision"}


def test_coprompt_asks_for_another_view_and_a_drawn_sentence():
    texts = ("a photo of a {}.", "this is {}.")
    method = make("coprompt", templates=texts, depth=2)
    second = torch.randn_like(batch().images)
    losses = method.loss(batch()._replace(other=lambda: second))
    with torch.no_grad():
        frozen = method.encoder.encode_image(second)
    image = 8 * (1 - F.cosine_similarity(method.image_features(batch().images), frozen).mean())
    torch.testing.assert_close(losses["image"], image, **FEATURES)
    ce = F.cross_entropy(method(batch().images), batch().labels)
    torch.testing.assert_close(losses["loss"], ce + losses["image"] + losses["text"], **FEATURES)
    classes, seen = method.class_features(), set()
    apart = [8 * (1 - F.cosine_similarity(classes, f).mean()) for f in method.sentence_features]
    for _ in range(20):
        text = method.loss(batch())["text"]
        seen |= {i for i, each in enumerate(apart) if torch.isclose(text, each)}
    assert seen == {0, 1}
    plain = make("coprompt", method.encoder, templates=texts, depth=2, image_ratio=0.0, text_ratio=0.0)
    maple = make("maple", method.encoder, templates=texts, depth=2)
    plain.load_state_dict(maple.state_dict(), strict=False)
    torch.testing.assert_close(plain(batch().images), maple(batch().images), **FEATURES)
    assert (method(batch().images) - plain(batch().images)).abs().max() > 1e-3


def test_a_batch_gives_its_images_again():
    drawn = []
    split = ImageSet(lambda at: (drawn.append(at.tolist()), torch.zeros(len(at), 3, 4, 4))[1], torch.zeros(9))
    made = split.batch(torch.tensor([3, 5]), torch.device("cpu"))
    assert made.other().shape == (2, 3, 4, 4) and drawn == [[3, 5], [3, 5]]


def test_an_attribute_of_several_tokens_stays_whole_unless_as_released():
    encoder = random_encoder()
    words = ("snow leopard", "red")
    ids = [row[1:-1] for row in encoder.tokenize(words)]
    assert len(ids[0]) > 1
    method = make("atprompt", encoder, attributes=words, attribute_lengths=(1, 2), n_ctx=3)
    row, n = method.sequences[0], len(ids[0])
    assert [i < 0 for i in row[1:]] == [True] + [False] * n + [True] * 2 + [False] + [True] * 3 + [False] * (
        len(row) - 8 - n
    )
    assert row[2 : 2 + n] == ids[0] and row[4 + n : 5 + n] == ids[1] and method.place == (5 + n, 3)
    assert method.text_prompt().context.shape == (6, 32)
    released = make("atprompt", encoder, attributes=words, attribute_lengths=(1, 2), n_ctx=3, one_token=True)
    assert released.sequences[0] != row and len(released.sequences[0]) == len(row)
    with pytest.raises(UserError, match="attributes stand before a context that all classes share"):
        make("atprompt", encoder, class_specific=True)
    with pytest.raises(UserError, match="attributes or attribute_lengths are empty"):
        make("atprompt", encoder, attributes=())


def test_class_tokens_are_made_of_each_class():
    method = make("tcp")
    tokens = method.text_prompt().deep[0]
    assert tokens.shape == (3, 4, 32) and (tokens[0] - tokens[1]).abs().max() > 1e-3
    before = method.class_features()
    method.set_classes((*NAMES[::-1], "apple"))
    torch.testing.assert_close(method.class_features()[[2, 1, 0]], before, **FEATURES)
    assert method.loss(batch())["kg"] > 1e-4
    with pytest.raises(UserError, match="class_layer 1"):
        make("tcp", class_layer=1)


# DPL.


def test_given_lengths_skip_the_search(photos):
    settings = quick("dpl", text_lengths=(1, 0, 2, 0), vision_lengths=(0, 0, 3, 1))
    classifier = PromptClassifier("dpl", settings=settings).fit(*photos)
    assert {record["stage"] for record in classifier.history_} == {"train"}
    method = classifier.method_
    assert [len(p) for p in method.text_prompts] == [1, 0, 2, 0]
    assert [len(p) for p in method.vision_prompts] == [0, 0, 3, 1]
    assert method.lengths == Lengths((1, 0, 2, 0), (0, 0, 3, 1))


def test_a_search_may_find_that_no_prompt_is_best(photos, tmp_path):
    settings = quick("dpl", text_lengths=(0,) * 4, vision_lengths=(0,) * 4)
    classifier = PromptClassifier("dpl", settings=settings).fit(*photos)
    zeroshot = PromptClassifier("zeroshot").fit(*photos).predict_proba(photos[0])
    np.testing.assert_allclose(classifier.predict_proba(photos[0]), zeroshot, rtol=0, atol=1e-6)
    classifier.save(tmp_path / "kept")
    assert PromptClassifier.load(tmp_path / "kept").method_.lengths.total == 0
    with pytest.raises(UserError, match="nothing to search"):
        make("dpl", text_max=0, vision_max=0)


@pytest.mark.parametrize(("text", "vision"), [((1,), (1, 1, 1)), ((1, 1), ()), ((1, 1), (1, 1))])
def test_lengths_for_another_number_of_layers_are_refused(text, vision):
    with pytest.raises(UserError, match=r"\d (text|vision) lengths for a backbone with \d"):
        make("dpl", text_lengths=text, vision_lengths=vision)


def test_alphas_see_every_validation_image_shuffled_and_prompts_none_of_them():
    drawn = {"train": [], "val": []}

    def recorded(name, count, seed):
        split = random_split(count, seed=seed)
        return ImageSet(lambda at: (drawn[name].extend(at.tolist()), split.images(at))[1], split.labels)

    kind = get_method("dpl")
    settings = kind.Settings(
        search="alphas", epochs=1, search_epochs=2, batch_size=4, text_max=1, vision_max=1
    )
    supernet = kind(random_encoder(torch.float32), NAMES, settings).stages()[0].method
    fit(
        supernet,
        {"train": recorded("train", 16, 0), "val": recorded("val", 12, 1)},
        TrainOptions(),
        show=False,
    )
    first, second = drawn["val"][:16], drawn["val"][16:]
    assert set(first) == set(second) == set(range(12)) and len(second) == 16
    assert first != second and first[:12] != sorted(first[:12])
    assert sorted(drawn["train"][:16]) == list(range(16))


def test_alphas_learn_on_validation_images_and_prompts_on_training_images():
    supernet = make("dpl", search="alphas", text_max=2, vision_max=2).stages()[0].method
    on_val, on_train = supernet.objectives()
    assert (on_val.split, on_train.split) == ("val", "train")
    assert {id(p) for p in on_val.parameters} == {id(supernet.text_alphas), id(supernet.vision_alphas)}
    prompts = [*supernet.text_prompts, *supernet.vision_prompts]
    assert {id(p) for p in on_train.parameters} == {id(p) for p in prompts}


def test_text_and_vision_lengths_are_not_exchanged(tmp_path):
    text, vision = (3, 0, 1, 2), (0, 4, 4, 1)
    method = make("dpl", toy_encoder(), search="alphas", text_max=4, vision_max=4)
    supernet = method.stages()[0].method
    for alphas, lengths in ((supernet.text_alphas, text), (supernet.vision_alphas, vision)):
        alphas.data = F.one_hot(torch.tensor(lengths), 5) * 2.0
    assert (supernet.lengths.text, supernet.lengths.vision) == (text, vision)
    record = supernet.epoch_record()["alphas"]
    assert [max(range(5), key=row.__getitem__) for row in record["text"]] == list(text)
    method.take(supernet.lengths)
    method.lengths.save(tmp_path / "lengths.json")
    content = json.loads((tmp_path / "lengths.json").read_text())
    assert content.pop("made_by") == MARK
    assert (tuple(content["text"]), tuple(content["vision"])) == (text, vision)
    loaded = Lengths.load(tmp_path / "lengths.json")
    assert loaded == method.lengths and len(loaded.text_confidence) == 4
    for branch, lengths, width in (("text", text, 128), ("vision", vision, 160)):
        assert [tuple(p.shape) for p in getattr(method, f"{branch}_prompts")] == [(n, width) for n in lengths]


@pytest.mark.parametrize("preset", ["", "paper"])
@pytest.mark.parametrize(("text", "vision"), [((3, 0, 1, 2), (0, 2, 2, 1)), ((0,) * 4, (3,) * 4)])
def test_a_supernet_with_all_weight_on_one_candidate_is_the_derived_network(text, vision, preset):
    """In every layer; float64, the toy backbone."""
    encoder = toy_encoder(torch.float64)
    torch.manual_seed(3)
    settings = DPL.Settings(**DPL.preset(preset), text_max=3, vision_max=3)
    supernet = Supernet(encoder, NAMES, settings).double()
    derived = DPL(encoder, NAMES, replace(settings, text_lengths=text, vision_lengths=vision)).double()
    for branch, lengths in (("text", text), ("vision", vision)):
        getattr(supernet, f"{branch}_alphas").data = F.one_hot(torch.tensor(lengths), 4) * 1e4
        for layer, (ours, n) in enumerate(zip(getattr(derived, f"{branch}_prompts"), lengths, strict=True)):
            every = getattr(supernet, f"{branch}_prompts")[layer].data  # candidates one after the other
            ours.data = every[n * (n - 1) // 2 :][:n]
    pixels = batch().images
    torch.testing.assert_close(supernet.class_features(), derived.class_features(), **FEATURES)
    torch.testing.assert_close(supernet.image_features(pixels), derived.image_features(pixels), **FEATURES)
    assert (derived.class_features() - encoder.encode_text(derived.sequences)).abs().max() > 1e-6 or not any(
        text
    )


def test_the_train_stage_starts_with_fresh_prompts(photos):
    settings = DPL.preset("paper") | {"text_max": 2, "vision_max": 2}
    supernet = make("dpl", **settings).stages()[0].method
    method = make("dpl", supernet.encoder, **settings)
    supernet.text_alphas.data[:, 2] = supernet.vision_alphas.data[:, 2] = 1
    method.take(supernet.lengths)
    fresh = torch.cat([p.flatten() for p in method.parameters()])
    assert fresh.std() < 0.03 and method.settings.text_lengths == (2, 2)
    searched = torch.cat([p.flatten() for p in supernet.vision_prompts])
    assert 0.8 < searched.std() < 1.2
    words = torch.cat([p.flatten() for p in supernet.text_prompts])
    assert words.min() >= 0 and words.max() <= 1
    assert supernet.text_alphas.shape == (2, 3) and supernet.vision_alphas.shape == (3, 3)


def test_the_ensemble_of_one_template_is_the_plain_prompt(monkeypatch):
    monkeypatch.setattr("vlprompt.methods.dpl.dpl.IMAGENET_TEMPLATES", ("a photo of a {}.",))
    given = {"text_lengths": (2, 0), "vision_lengths": (0, 0, 0)}
    encoder = random_encoder()
    ours = make("dpl", encoder, text="ensemble", **given).class_features()
    torch.testing.assert_close(ours, make("dpl", encoder, **given).class_features(), **FEATURES)


def test_the_ensemble_ends_where_its_longest_template_ends():
    given = {"text_lengths": (2, 0), "vision_lengths": (0, 0, 0)}
    method = make("dpl", text="ensemble", **given)
    from vlprompt.methods.templates import IMAGENET_TEMPLATES

    end = method.encoder.backbone.tokenizer.eos_token_id
    end_embedded = method.encoder.embed([end])[0]
    for name, row in zip(NAMES, method.sequences, strict=True):
        rows = method.encoder.tokenize([t.replace("{}", name) for t in IMAGENET_TEMPLATES])
        assert len(row) == max(map(len, rows)) and row[-1] == end
        at = len(row) - 2  # the last averaged position
        share = sum(len(r) <= at + 1 for r in rows) / len(rows)  # templates that have ended there
        mean = method.frozen_context[-1 - row[at]]
        others = [r[at] for r in rows if len(r) > at + 1]
        expected = share * end_embedded + method.encoder.embed(others).sum(0) / len(rows)
        torch.testing.assert_close(mean, expected, **FEATURES)
    before = method.class_features()
    method.set_classes((*NAMES, "apple"))
    torch.testing.assert_close(method.class_features()[:3], before, rtol=0, atol=1e-9)
