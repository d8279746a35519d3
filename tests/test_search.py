"""The search by gates, lengths as an object, and objectives joined to other prompts."""

import json
import random

import fleet
import pytest
import search_ways
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
from vlprompt.methods.dpl.dpl import DPL
from vlprompt.methods.dpl.settings import PAPER, Settings
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.lengths import Lengths, agreed, averaged, random_lengths, uniform_lengths

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


def test_text_prompts_start_from_a_layer_s_own_hidden_states(encoder):
    """Keys and values made of them change the frozen features less than random ones do."""
    states = encoder.word_states("a photo of a")
    lengths = {"text_lengths": (6,) * len(states), "vision_lengths": (0,) * 4}
    words, random_ones = make(encoder, DPL, **lengths), make(encoder, DPL, **lengths, ctx_init="")
    frozen = encoder.encode_text(words.rows(NAMES))  # (K, E)
    near, far = ((m.class_features() * frozen).sum(-1).mean() for m in (words, random_ones))
    assert far < near < 1
    searching = make(encoder, DPL, text_max=6)
    for prompt, before in zip(words.text_prompts, searching.text_prompts, strict=True):
        assert prompt.shape == before.shape and (prompt - before).abs().max() < 0.2


def test_hidden_states_of_words_are_those_of_their_sentence(encoder):
    """What enters a layer is what the layers before it make of the words, behind the start token."""
    states = encoder.word_states("a photo of a")
    layers, ids = encoder.backbone.text_layers, encoder.tokenize(["a photo of a"])[0]
    hidden = encoder.embed(ids)[None] + encoder.backbone.text_positions(torch.arange(len(ids)))
    for layer, ours in zip(layers, states, strict=True):
        torch.testing.assert_close(ours, hidden[0, 1:-1])
        plan = Plan.of([ids])
        hidden = encoder.backbone.run_layer(layer, hidden, AttentionPrompt(plan.pack))


def test_the_paper_s_preset_is_the_search_as_published():
    settings = Settings(**PAPER)
    assert (settings.search, settings.ctx_init) == ("alphas", "")
    assert (settings.search_epochs, settings.epochs, settings.batch_size, settings.lr) == (80, 40, 4, 0.0035)


# Gates.


def searching(encoder, **settings) -> DPL:
    return make(encoder, DPL, **{"text_max": 3, "vision_max": 2, "optimizer": "adamw", "lr": 0.01} | settings)


def test_the_probe_s_gradient_is_what_the_loss_loses_with_a_little_less_of_a_token(encoder):
    """Central differences in float64."""
    method = searching(encoder64(), text_max=2).double()
    images = batch(method.encoder)._replace(images=batch(method.encoder).images.double())
    method.loss(images)["loss"].backward()
    for place in ((0, 0), (3, 1), (5, 1)):
        difference = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                method.gates.probe[place] += step
                difference.append(float(method.loss(images)["loss"]))
                method.gates.probe[place] -= step
        numeric = (difference[0] - difference[1]) / 2e-5
        assert method.gates.probe.grad[place].item() == pytest.approx(numeric, rel=1e-5, abs=1e-10)


def test_a_layer_with_fewer_places_has_no_gate_beyond_them(encoder):
    gates = searching(encoder, text_max=3, vision_max=2).gates
    assert gates.lengths == [3] * 4 + [2] * 4 and gates.full == 20


@pytest.mark.parametrize(
    ("budget", "tokens"), [(1 / 3, 7), (0.5, 10), (1, 20), (5, 5), (1000, 20), (0.001, 1)]
)
def test_a_budget_is_a_share_or_a_number(encoder, budget, tokens):
    assert searching(encoder, budget=budget).gates.budget == tokens


def test_a_budget_between_is_refused():
    with pytest.raises(UserError, match=r"budget 2\.5: give a share up to 1, or a whole number"):
        Settings(budget=2.5)


def test_the_least_useful_tokens_go_first_and_training_ends_within_the_budget(digits, tmp_path):
    settings = {"epochs": 8, "batch_size": 5, "budget": 11, "optimizer": "adamw", "lr": 0.01}
    classifier = PromptClassifier("dpl", settings=settings).fit_dataset(digits)
    found = classifier.method_.lengths
    left = [sum(map(sum, record["lengths"].values())) for record in classifier.history_]
    assert left[0] > 40 and sorted(left, reverse=True) == left and set(left[4:]) == {11}
    assert len(set(left)) > 3, "a few at a time"
    assert found.total == 11 and [len(p) for p in classifier.method_.text_prompts] == list(found.text)
    classifier.save(tmp_path / "kept")
    again = PromptClassifier.load(tmp_path / "kept")
    assert again.method_.lengths == Lengths(found.text, found.vision)
    images = [item.image for item in digits.test[:4]]
    assert (again.predict_proba(images) == classifier.predict_proba(images)).all()


def test_closing_takes_the_tokens_that_are_worth_least(encoder):
    gates = searching(encoder, text_max=2, vision_max=2, budget=4).gates
    worth = torch.arange(16.0).view(8, 2)
    for step in range(4):
        gates.probe.grad = worth * (-1) ** step
        gates.after_step(1)
    gates.after_epoch(0, 1)
    assert gates.lengths == [0] * 6 + [2, 2]


def test_where_nothing_was_learned_the_budget_is_spread_evenly(encoder):
    method = searching(encoder, text_max=3, vision_max=3, budget=1 / 3)
    method.finish()
    assert method.lengths == Lengths((1,) * 4, (1,) * 4)


def test_closing_a_token_is_training_on_without_it(encoder):
    """Features of a method with closed gates are those after the closed tokens have gone."""
    method = searching(encoder, budget=17)
    method.gates.open[1, 2] = method.gates.open[0, 0] = method.gates.open[5, 1] = False
    images = batch(encoder).images
    before = method(images)
    method.finish()
    assert method.lengths == Lengths((2, 2, 3, 3), (2, 1, 2, 2)) and method.gates is None
    torch.testing.assert_close(method(images), before, rtol=0, atol=1e-4)


def test_fresh_trains_new_prompts_with_what_the_gates_found(digits):
    settings = {"epochs": 3, "batch_size": 10, "budget": 6, "fresh": True, "text_max": 2, "vision_max": 2}
    classifier = PromptClassifier("dpl", settings=settings).fit_dataset(digits)
    stages = [record["stage"] for record in classifier.history_]
    assert stages == ["search"] * 3 + ["train"] * 3
    last = classifier.history_[2]["lengths"]
    assert classifier.method_.lengths == Lengths(last["text"], last["vision"])


@pytest.mark.parametrize("added", ["kgcoop", "promptsrc", "prograd", "genpt"])
def test_an_added_objective_has_a_say_in_the_search(digits, added):
    settings = {"epochs": 4, "batch_size": 10, "budget": 6, "text_max": 2, "vision_max": 2}
    classifier = PromptClassifier(f"dpl+{added}", settings=settings).fit_dataset(digits)
    assert classifier.method_.lengths.total == 6
    assert all(
        len(record.keys() & {"kg", "text_l1", "scl_text", "text", "general", "mi"}) > 0
        for record in classifier.history_
    )


def encoder64() -> Encoder:
    return Encoder(load_backbone("toy", dtype=torch.float64))


def test_a_fleet_is_its_placements_one_by_one(encoder, digits):
    """What benchmarks/search_study.py trains: logits, and a step, as of a method alone with these lengths."""
    placed = [Lengths((2, 0, 1, 3), (0, 1, 0, 2)), Lengths((0, 3, 0, 0), (1, 1, 1, 1))]
    problem = fleet.Problem(encoder, digits)
    ships = fleet.Fleet(problem, fleet.open_gates(placed), [1, 2], fleet.Recipe())
    alone = [make(encoder, DPL, text_lengths=one.text, vision_lengths=one.vision) for one in placed]
    for ship, method in enumerate(alone):
        method.transfer(digits.classnames)
        for layer, prompt in enumerate(method.text_prompts):
            prompt.data = ships.text.data[ship, layer, : len(prompt)].clone()
        for layer, prompt in enumerate(method.vision_prompts):
            prompt.data = ships.vision.data[ship, layer, : len(prompt)].clone()
    at = torch.tensor([[0, 3, 5], [2, 1, 7]])
    logits = ships.logits(problem.train[at])
    for ship, method in enumerate(alone):
        torch.testing.assert_close(logits[ship], method(problem.train[at[ship]]), rtol=0, atol=1e-4)
    for group in ships.optimizer.param_groups:
        group["lr"] = 0.01
    ships.step(at)
    optimizer = torch.optim.AdamW(alone[1].parameters(), 0.01, weight_decay=5e-4)
    alone[1].loss(Batch(problem.train[at[1]], problem.train_labels[at[1]]))["loss"].backward()
    optimizer.step()
    torch.testing.assert_close(ships.text[1, 1, :3], alone[1].text_prompts[1], rtol=0, atol=1e-4)


# Controls.


def test_the_mean_of_searches_keeps_their_number_of_tokens():
    found = [Lengths((1, 2), (5, 0)), Lengths((1, 4), (3, 0)), Lengths((0, 4), (2, 2))]
    mean = averaged(found)  # 2/3, 10/3, 10/3, 2/3
    assert (mean.text, mean.vision, mean.total) == ((1, 3), (3, 1), 8)
    assert mean.text_confidence == pytest.approx((2 / 3, 0)) and mean.vision_confidence[0] == 1 / 3


@pytest.mark.parametrize("total", [0, 1, 24, 40])
def test_random_lengths_have_the_wanted_number_of_tokens_within_each_branch_s_limit(total):
    longest = Lengths((6,) * 4, (4,) * 4)
    drawn = [random_lengths(random.Random(i), longest, total) for i in range(20)]
    assert all(n.total == total for n in drawn)
    assert all(0 <= n <= 6 for lengths in drawn for n in lengths.text)
    assert all(0 <= n <= 4 for lengths in drawn for n in lengths.vision)
    assert len(set(drawn)) > 1 or total in (0, 40)


def test_uniform_lengths_differ_by_one_at_most_where_there_is_room():
    assert uniform_lengths(Lengths((6,) * 3, (6,) * 3), 14) == Lengths((3, 3, 2), (2, 2, 2))
    assert uniform_lengths(Lengths((1,) * 2, (6,) * 2), 8) == Lengths((1, 1), (3, 3))
    with pytest.raises(UserError, match="9 tokens do not fit 2 layers with room for 8"):
        uniform_lengths(Lengths((4,), (4,)), 9)


def test_a_control_has_as_many_tokens_and_other_lengths(photos, tmp_path, capsys):
    words = ["search", photos, "--shots", 2, "--epochs", 3, "--batch-size", 3]
    words += ["--text-max", 2, "--vision-max", 2, "--control", 2]
    words += ["--out", tmp_path / "lengths.json"]
    assert vlprompt(*words, "--json", "--budget", 5) == 0
    measured = json.loads(capsys.readouterr().out)["accuracy"]
    assert measured["tokens"] == 5 and len(measured["random"]) == 2
    assert all(0 < measured[name] <= 100 for name in ("searched", "found", "uniform"))
    assert vlprompt(*words, "--budget", 1) == 0
    assert Lengths.load(tmp_path / "lengths.json").total == 16
    assert "no other placement has as many tokens" in " ".join(capsys.readouterr().out.split())


def test_seeds_vote_for_the_lengths():
    found = [Lengths((1, 2), (3,)), Lengths((1, 4), (3,)), Lengths((1, 4), (0,))]
    assert agreed(found) == Lengths((1, 4), (3,), (1.0, 2 / 3), (2 / 3,))


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


def test_what_images_show_shifts_classes_beside_any_prompts(encoder):
    """GenPT's shift beside DPL's prompts is learned; names are known though the prompts start afresh."""
    joined = make(encoder, get_method("dpl+genpt"), fresh=True)
    joined.take(Lengths((1, 0, 0, 1), (0, 1, 0, 0)))
    names = joined.handcrafted - joined.centre
    torch.testing.assert_close(joined.centre, joined.handcrafted.mean(0))
    losses = joined.loss(batch(encoder))
    losses["loss"].backward()
    assert joined.feature_shift.grad.abs().sum() > 0
    assert 0.5 < ((names @ joined.explains) * names).sum() / names.square().sum() < 1
    with torch.no_grad():
        joined.feature_shift.normal_()
        text = type(joined).__mro__[2].class_features(joined)  # DPL's own
        shifted = torch.nn.functional.normalize(text + names @ joined.feature_shift, dim=-1)
        torch.testing.assert_close(joined.class_features(), shifted)


@pytest.mark.parametrize("added", ["kgcoop", "promptsrc", "prograd", "genpt"])
def test_every_objective_joins_dpl_s_prompts(encoder, added):
    lengths = {"text_lengths": (2, 0, 1, 3), "vision_lengths": (0, 1, 0, 2)}
    joined = make(encoder, get_method(f"dpl+{added}"), **lengths)
    alone = make(encoder, DPL, **lengths)
    added_ones = {"feature_shift", "centre", "explains", "trained"} if added == "genpt" else set()
    assert {n for n, _ in joined.named_parameters()} == added_ones | {n for n, _ in alone.named_parameters()}
    ours, theirs = joined.loss(batch(encoder)), alone.loss(batch(encoder))
    torch.testing.assert_close(ours["ce"], theirs["ce"])
    assert set(ours) > set(theirs)
    assert joined.settings.lr == alone.settings.lr == 0.0035  # the prompts' own settings stay
    if added != "prograd":  # which changes the gradient and not the loss
        assert ours["loss"] > theirs["loss"]


def test_several_objectives_add_up(encoder):
    lengths = {"text_lengths": (2, 0, 1, 3), "vision_lengths": (0, 1, 0, 2)}
    joined = make(encoder, get_method("dpl+kgcoop+genpt"), **lengths)
    with torch.no_grad():
        joined.feature_shift.normal_()
    losses = joined.loss(batch(encoder))
    terms = losses["ce"] + losses["kg"] + losses["mi"] + losses["shift"]
    torch.testing.assert_close(losses["loss"], terms)
    assert losses["shift"] > 0


@pytest.mark.parametrize("added", ["kgcoop", "prograd", "promptsrc", "tcp", "coprompt", "atprompt", "mmrl"])
@pytest.mark.parametrize("order", ["coop+{}+genpt", "coop+genpt+{}"])
def test_genpt_joins_whatever_else_is_added(encoder, added, order):
    """Trained names predict as in training where the soft view is all, adapters and shift included."""
    joined = make(encoder, get_method(order.format(added)), view_mix=1.0)
    losses = joined.loss(batch(encoder))
    joined.backward(losses, torch.Tensor.backward)
    torch.nn.init.normal_(joined.feature_shift)
    joined.after_epoch(0, 1)
    joined.eval()
    torch.testing.assert_close(joined.predicting_features(), joined.class_features())
    joined.transfer(("yellow cross", NAMES[0]))
    assert joined.predictor()(batch(encoder).images).shape == (3, 2)
    assert joined.trained.tolist() == [0, 1]


def test_gates_that_are_drawn_learn_and_keep_the_budget(encoder, digits):
    problem = fleet.Problem(encoder, digits)
    drawn = search_ways.Concrete(problem.layers, 8, lambda placements: torch.empty(0), random.Random(0))
    level = drawn.level.detach().clone()
    longest = Lengths(*((fleet.LONGEST,) * n for n in problem.layers))
    recipe = fleet.Recipe(steps=8)
    search_ways.Ways(problem, fleet.open_gates([longest]), {0: drawn}, [0], recipe).train()
    assert (drawn.level - level).abs().max() > 0.1 and sum(drawn.lengths) == 8


def test_what_cannot_be_joined_is_said(encoder):
    with pytest.raises(UserError, match=r"'coprompt\+genpt'"):
        get_method("genpt+coprompt")
    with pytest.raises(UserError, match=r"'coop' adds nothing.*kgcoop"):
        get_method("dpl+coop")
    with pytest.raises(UserError, match=r"'cocoop' has a loss of its own"):
        get_method("cocoop+kgcoop")
    for twice in ("dpl+kgcoop+tcp", "dpl+tcp+kgcoop"):
        with pytest.raises(UserError, match="leave one out"):
            get_method(twice)
    with pytest.raises(UserError, match="no text context that attributes"):
        make(encoder, get_method("dpl+atprompt"))
    with pytest.raises(UserError, match="unknown method 'nothing'"):
        get_method("dpl+nothing")


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
