"""Lengths as an object, the mended search, and objectives joined to other prompts."""

import itertools
import json
import random

import pytest
import torch
from tune import sample

from support import vlprompt
from vlprompt import data
from vlprompt.engine.attention import AttentionPrompt
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.packing import Plan
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch
from vlprompt.methods.dpl.alphas import from_alphas, longest_within, within_budget
from vlprompt.methods.dpl.dpl import DPL
from vlprompt.methods.dpl.settings import PAPER, Settings
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.lengths import Lengths, agreed, random_lengths

NAMES = ("red circle", "blue star", "green heart")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_backbone("toy"))


@pytest.fixture(scope="module")
def digits():
    return data.few_shot(data.load("toy:digits"), 2, 1)


def make(encoder, kind=Supernet, **settings):
    torch.manual_seed(0)
    return kind(encoder, NAMES, kind.Settings(**settings))


def batch(encoder) -> Batch:
    side = encoder.backbone.image_size
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, torch.arange(3))


def test_the_paper_s_preset_is_the_search_as_published():
    settings = Settings(**PAPER)
    assert not (settings.warmup or settings.nested or settings.sampled or settings.patience)
    assert settings.share == 1 and not settings.budget and not settings.inherit and not settings.ctx_init
    assert (settings.search_epochs, settings.epochs, settings.batch_size, settings.lr) == (80, 40, 4, 0.0035)


def test_a_nested_candidate_is_the_beginning_of_the_longest_prompt(encoder):
    supernet = make(encoder, nested=True, text_max=4)
    assert supernet.text_prompts[1].shape == (4, encoder.backbone.text_width)
    torch.testing.assert_close(supernet.tokens("text", 1, 3), supernet.text_prompts[1][:3])
    mixture = supernet.text_prompt().keys_values[1]
    pieces = mixture.tokens.split(mixture.lengths)
    for length, piece in enumerate(pieces, 1):
        torch.testing.assert_close(piece, supernet.tokens("text", 1, length))


def test_text_prompts_start_from_a_layer_s_own_hidden_states(encoder):
    """Keys and values made of them change the frozen features less than random ones do."""
    states = encoder.word_states("a photo of a")
    lengths = {"text_lengths": (6,) * len(states), "vision_lengths": (0,) * 4}
    words, random_ones = make(encoder, DPL, **lengths), make(encoder, DPL, **lengths, ctx_init="")
    frozen = encoder.encode_text(words.rows(NAMES))  # (K, E)
    near, far = ((m.class_features() * frozen).sum(-1).mean() for m in (words, random_ones))
    assert far < near < 1
    nested = make(encoder, text_max=6)
    for prompt, supernet in zip(words.text_prompts, nested.text_prompts, strict=True):
        assert prompt.shape == supernet.shape and (prompt - supernet).abs().max() < 0.2


def test_hidden_states_of_words_are_those_of_their_sentence(encoder):
    """What enters a layer is what the layers before it make of the words, behind the start token."""
    states = encoder.word_states("a photo of a")
    layers, ids = encoder.backbone.text_layers, encoder.tokenize(["a photo of a"])[0]
    hidden = encoder.embed(ids)[None] + encoder.backbone.text_positions(torch.arange(len(ids)))
    for layer, ours in zip(layers, states, strict=True):
        torch.testing.assert_close(ours, hidden[0, 1:-1])
        plan = Plan.of([ids])
        hidden = encoder.backbone.run_layer(layer, hidden, AttentionPrompt(plan.pack))


def test_candidates_that_are_not_nested_share_no_token(encoder):
    supernet = make(encoder, nested=False, text_max=3)
    starts = [supernet.tokens("text", 0, n).data_ptr() for n in (1, 2, 3)]
    assert len(set(starts)) == 3
    assert sum(len(supernet.tokens("text", 0, n)) for n in (1, 2, 3)) == len(supernet.text_prompts[0])


@pytest.mark.parametrize("nested", [False, True])
def test_chosen_lengths_are_the_derived_network_with_the_supernet_s_prompts(encoder, nested):
    supernet = make(encoder, nested=nested)
    layers = len(supernet.text_prompts), len(supernet.vision_prompts)
    lengths = random_lengths(random.Random(3), layers, 6, 20)
    derived = make(encoder, DPL, text_lengths=lengths.text, vision_lengths=lengths.vision)
    for layer, n in enumerate(lengths.text):
        derived.text_prompts[layer].data = supernet.tokens("text", layer, n).data
    for layer, n in enumerate(lengths.vision):
        derived.vision_prompts[layer].data = supernet.tokens("vision", layer, n).data
    images = batch(encoder).images
    with supernet.choose(lengths):
        chosen = supernet(images)
    torch.testing.assert_close(chosen, derived(images), rtol=0, atol=1e-4)
    assert not torch.allclose(supernet(images), chosen)  # afterwards it is a mixture again


def test_the_alphas_wait_during_the_warm_up(digits):
    settings = {"search_epochs": 3, "epochs": 0, "warmup": 0.6, "batch_size": 10}
    history = PromptClassifier("dpl", settings=settings).fit_dataset(digits).history_
    first, second, third = [torch.tensor(r["alphas"]["text"]) for r in history]
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(second, third)
    assert [("val_loss" in r) for r in history] == [False, False, True]


def test_the_search_ends_when_the_lengths_are_stable(digits):
    settings = PAPER | {
        "search_epochs": 30, "epochs": 0, "alpha_lr": 0.0, "batch_size": 20, "patience": 3
    }  # fmt: skip
    history = PromptClassifier("dpl", settings=settings).fit_dataset(digits).history_
    assert len(history) == 4  # the alphas never move: seen once, then the same three times


@pytest.mark.parametrize("nested", [False, True])
def test_one_stage_keeps_the_supernet_s_prompts(digits, nested):
    settings = PAPER | {"search_epochs": 1, "epochs": 0, "inherit": True, "nested": nested, "batch_size": 10}
    classifier = PromptClassifier("dpl", settings=settings).fit_dataset(digits)
    again = PromptClassifier("dpl", settings=settings | {"inherit": False}).fit_dataset(digits)
    kept, fresh = classifier.method_, again.method_
    assert kept.lengths == fresh.lengths
    longest = max(range(len(kept.lengths.text)), key=kept.lengths.text.__getitem__)
    deviation = kept.text_prompts[longest].std()
    assert not torch.equal(kept.text_prompts[longest], fresh.text_prompts[longest])
    assert (deviation > 0.2) != nested  # U(0, 1) in the paper's search, N(0, 0.02^2) in the nested one


def test_the_budget_gives_the_likeliest_lengths_that_fit():
    torch.manual_seed(0)
    weights = torch.randn(4, 4, dtype=torch.float64).log_softmax(-1)
    for budget in range(13):
        found = within_budget(weights, budget)
        assert sum(found) <= budget
        every = [n for n in itertools.product(range(4), repeat=4) if sum(n) <= budget]
        best = max(sum(weights[layer, n].item() for layer, n in enumerate(lengths)) for lengths in every)
        assert sum(weights[layer, n].item() for layer, n in enumerate(found)) == pytest.approx(best)
    limited = from_alphas(weights[:2], weights[2:], budget=3)
    assert limited.total <= 3 < from_alphas(weights[:2], weights[2:]).total


def test_a_longer_context_is_taken_that_is_nearly_as_likely():
    weights = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.7, 0.1, 0.1, 0.1]])
    assert longest_within(weights, 1.0) == weights.argmax(-1).tolist() == [1, 0]
    assert longest_within(weights, 0.4) == [3, 0]
    assert longest_within(weights, 0.6) == [1, 0]
    found = from_alphas(weights.log(), weights.log(), share=0.4)
    assert found.text == found.vision == (3, 0)
    assert found.text_confidence == pytest.approx((0.25, 0.7))


def test_sampled_alphas_learn_on_single_paths(encoder):
    """A drawn length has the mixture's whole weight, and yet all alphas of the layer have a gradient."""
    supernet = make(encoder, nested=True, sampled=True, text_max=3)
    supernet.text_alphas.data[:, 2] = 30.0
    weights = supernet.weights(supernet.text_alphas)
    expected = torch.nn.functional.one_hot(torch.full((len(weights),), 2), 4).to(weights)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    supernet.text_alphas.data.zero_()
    drawn = torch.stack([supernet.weights(supernet.text_alphas).argmax(-1) for _ in range(200)])
    assert all(set(layer.tolist()) == {0, 1, 2, 3} for layer in drawn.T)
    rows = supernet.rows(("cat", "dog"))
    features = encoder.encode_text(rows, supernet.text_prompt())
    features.diff(dim=0).square().sum().backward()
    assert (supernet.text_alphas.grad != 0).all()


def test_drawn_lengths_are_never_none_at_all(encoder):
    """There would be nothing to learn, and no gradient."""
    supernet = make(encoder, text_max=0, vision_max=1)
    drawn = {supernet.draw() for _ in range(300)}
    assert len(drawn) == 2 ** len(encoder.backbone.vision_layers) - 1
    assert all(lengths.total for lengths in drawn)


def test_a_search_starts_from_another_data_set_s_lengths(encoder):
    layers = len(encoder.backbone.text_layers)
    given = tuple(i % 7 for i in range(layers))
    supernet = make(encoder, text_start=given)
    assert supernet.lengths.text == given
    assert all(0.4 < p < 0.6 for p in supernet.lengths.text_confidence)
    with pytest.raises(UserError, match=r"starting length of 9"):
        make(encoder, text_start=(9,) * layers)


def test_seeds_vote_for_the_lengths():
    found = [Lengths((1, 2), (3,)), Lengths((1, 4), (3,)), Lengths((1, 4), (0,))]
    assert agreed(found) == Lengths((1, 4), (3,), (1.0, 2 / 3), (2 / 3,))


@pytest.mark.parametrize("total", [0, 1, 24, 48])
def test_random_lengths_have_the_wanted_number_of_tokens(total):
    drawn = [random_lengths(random.Random(i), (4, 4), 6, total) for i in range(20)]
    assert all(n.total == total for n in drawn)
    assert all(0 <= n <= 6 for lengths in drawn for n in lengths.text + lengths.vision)
    assert len(set(drawn)) > 1 or total in (0, 48)


def test_lengths_are_saved_and_edited_by_hand(tmp_path):
    lengths = Lengths((1, 0), (2, 6), (0.5, 0.6), (0.7, 0.8))
    lengths.save(tmp_path / "l.json")
    assert Lengths.load(tmp_path / "l.json") == lengths
    (tmp_path / "hand.json").write_text(json.dumps({"text": [1, 2], "vision": [0, 3]}))
    assert Lengths.load(tmp_path / "hand.json") == Lengths((1, 2), (0, 3))
    for bad in ("[]", '{"text": [1]}', '{"text": [-1], "vision": [1]}', '{"text": "x", "vision": [1]}', "{"):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(UserError, match=r"bad\.json"):
            Lengths.load(tmp_path / "bad.json")


@pytest.mark.parametrize("method", ["dpl", "ivlp", "promptsrc", "maple", "vpt"])
def test_lengths_are_given_to_every_deep_method(encoder, method):
    kind = get_method(method)
    known = {f for f in ("text_lengths", "vision_lengths") if f in kind.Settings.__dataclass_fields__}
    given = {"text_lengths": (6, 0, 2, 1), "vision_lengths": (0, 3, 0, 2)}
    made = make(encoder, kind, **{name: given[name] for name in known})
    losses = made.loss(batch(encoder))
    losses["loss"].backward()
    tokens = [p for n, p in made.named_parameters() if p.numel() and "couplings" not in n]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokens)
    with pytest.raises(UserError, match="one length a layer"):
        make(encoder, kind, **dict.fromkeys(known, (1, 2)))


@pytest.mark.parametrize("added", ["kgcoop", "promptsrc", "prograd", "genpt"])
def test_every_objective_joins_dpl_s_prompts(encoder, added):
    lengths = {"text_lengths": (2, 0, 1, 3), "vision_lengths": (0, 1, 0, 2)}
    joined = make(encoder, get_method(f"dpl+{added}"), **lengths)
    alone = make(encoder, DPL, **lengths)
    assert [n for n, _ in joined.named_parameters()] == [n for n, _ in alone.named_parameters()]
    ours, theirs = joined.loss(batch(encoder)), alone.loss(batch(encoder))
    torch.testing.assert_close(ours["ce"], theirs["ce"])
    assert set(ours) > set(theirs)
    assert joined.settings.lr == alone.settings.lr == 0.0035  # the prompts' own settings stay
    if added != "prograd":  # which changes the gradient and not the loss
        assert ours["loss"] > theirs["loss"]


def test_several_objectives_add_up(encoder):
    lengths = {"text_lengths": (2, 0, 1, 3), "vision_lengths": (0, 1, 0, 2)}
    joined = make(encoder, get_method("dpl+kgcoop+genpt"), **lengths)
    losses = joined.loss(batch(encoder))
    torch.testing.assert_close(losses["loss"], losses["ce"] + losses["kg"] + losses["mi"])


def test_what_cannot_be_joined_is_said():
    with pytest.raises(UserError, match=r"'coop' adds nothing.*kgcoop"):
        get_method("dpl+coop")
    with pytest.raises(UserError, match=r"'cocoop' has a loss of its own"):
        get_method("cocoop+kgcoop")
    with pytest.raises(UserError, match="unknown method 'nothing'"):
        get_method("dpl+nothing")


def test_a_control_has_as_many_tokens_and_other_lengths(tmp_path, capsys):
    words = ["search", "toy:colours", "--shots", 2, "--search-epochs", 1, "--epochs", 1, "--batch-size", 24]
    words += ["--text-max", 2, "--vision-max", 2, "--control", 2, "--json"]
    words += ["--out", tmp_path / "lengths.json"]
    assert vlprompt(*words, "--budget", 5) == 0
    measured = json.loads(capsys.readouterr().out)["accuracy"]
    assert len(measured["random"]) == 2 and 0 < measured["found"] <= 100
    assert vlprompt(*words) == 0  # one epoch of alphas: the longest everywhere
    assert Lengths.load(tmp_path / "lengths.json").total == 16
    assert json.loads(capsys.readouterr().out)["accuracy"]["random"] == []


def test_settings_are_chosen_without_a_test_image():
    """What benchmarks/tune.py measures on: images that neither training nor testing has."""
    task = data.load("toy:shapes")
    drawn = sample("shapes", 3)
    few = data.few_shot(task, 16, 3)
    held, trained = {id(i.image) for i in drawn.test}, {id(i.image) for i in (*drawn.train, *drawn.val)}
    assert [i.image for i in drawn.train] == [i.image for i in few.train]
    assert len(held) == len(task.train) + len(task.val) - len(drawn.train) - len(drawn.val) > 0
    assert not held & trained
    assert not {str(i.image) for i in drawn.test} & {str(i.image) for i in task.test}
