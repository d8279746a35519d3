"""How many tokens a search keeps, and whether it places them at all."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from support import vlprompt
from vlprompt import PromptClassifier, data
from vlprompt.errors import UserError
from vlprompt.methods.dpl.gates import Gates
from vlprompt.methods.dpl.path import within_one_error
from vlprompt.methods.dpl.settings import Settings
from vlprompt.methods.lengths import Lengths

AUTO = {"budget": "auto", "epochs": 6, "batch_size": 8, "optimizer": "adamw", "lr": 0.01}
AUTO |= {"text_max": 2, "vision_max": 2}


@pytest.fixture(scope="module")
def digits():
    return data.few_shot(data.load("toy:digits"), 2, 1)


@pytest.fixture(scope="module")
def chosen(digits):
    """A classifier whose number of tokens was chosen."""
    return PromptClassifier("dpl", settings=AUTO, seed=1).fit_dataset(digits)


def trained(gates: Gates, first: torch.Tensor, second: torch.Tensor, epochs: int = 10) -> Gates:
    """After epochs of four steps with these gradients in turn."""
    for epoch in range(epochs):
        for gradient in (first, second) * 2:
            gates.probe.grad = gradient * gates.open
            gates.after_step(epochs)
        gates.after_epoch(epoch, epochs)
    return gates


def test_tokens_are_placed_by_worth_where_halves_of_the_images_agree_and_evenly_where_not():
    longest, worth = torch.full((4,), 3), torch.tensor([9.0, 1, 4, 2])[:, None].expand(4, 3)
    agree = trained(Gates(longest, 4), worth, 2 * worth)
    assert agree.agreement > 0.9 and agree.decides
    assert agree.lengths == [3, 0, 1, 0]
    differ = trained(Gates(longest, 4), worth, 10 - worth)
    assert differ.agreement < -0.3 and not differ.decides
    assert differ.lengths == [1, 1, 1, 1]


@pytest.mark.parametrize("an_epoch", [2, 7])
def test_without_a_budget_most_steps_have_all_tokens_and_every_fourth_a_size_in_turn(an_epoch):
    gates = Gates(torch.full((4,), 6), None)
    assert gates.sizes == [2, 4, 6, 8, 12, 16, 24]
    worth = torch.arange(24.0).view(4, 6) + 1
    epochs, seen = 56 // an_epoch, []
    for epoch in range(epochs // 2 + 1):
        for _ in range(an_epoch):
            gates.probe.grad = worth * gates.open
            gates.after_step(epochs)
            seen.append(sum(gates.lengths))
        gates.after_epoch(epoch, epochs)
        seen[-1] = sum(gates.lengths)  # what the next step has
    turns = seen[-24:]
    assert set(turns) == set(gates.sizes) and turns.count(24) == 18
    gates.choose(6)
    gates.after_epoch(epochs - 1, epochs)
    assert gates.budget == 6 and gates.lengths == [0, 0, 0, 6]


def test_a_search_that_goes_on_tries_all_tokens_again():
    """A checkpoint stands between two sizes; what there is to open is no part of it."""
    longest, worth = torch.full((4,), 6), torch.arange(24.0).view(4, 6) + 1
    halted, on = Gates(longest, None), Gates(longest, None)
    trained(halted, worth, worth, epochs=3)
    assert sum(halted.lengths) < 24
    on.load_state_dict(halted.state_dict())
    for gates in (halted, on):
        trained(gates, worth, worth, epochs=3)
        assert gates.every.sum() == 24
    assert torch.equal(halted.open, on.open)


def test_a_closed_token_keeps_its_worth():
    gates = Gates(torch.full((2,), 2), None)
    gates.worth = torch.tensor([[4.0, 3], [2, 1]])
    gates.open = gates.best(1, gates.every)
    gates.probe.grad = torch.ones(2, 2) * gates.open
    gates.after_step(2)
    assert gates.worth[0, 1] == 3 and gates.worth[1].tolist() == [2, 1] and gates.worth[0, 0] < 4


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        ([[2.0, 2, 2, 2], [1.1, 0.9, 1.1, 0.9], [1.0, 1, 1, 1]], 1),  # no worse than noise
        ([[1.4, 1.6, 1.5, 1.5], [1.2, 1.1, 1.2, 1.1], [1.0, 1, 1, 1]], 2),  # small, but image after image
        ([[1.0, 1, 1, 1], [1.0, 1, 1, 1]], 0),
    ],
)
def test_the_smallest_size_within_one_standard_error_of_the_best(losses, index):
    assert within_one_error(torch.tensor(losses)) == index


def test_auto_chooses_a_size_by_validation_images_and_keeps_to_it(chosen):
    measured = [record for record in chosen.history_ if "path" in record]
    assert [record["epoch"] for record in measured] == [3], "when 0.6 of the training is done"
    points, taken = measured[0]["path"], measured[0]["chosen"]
    assert [p["tokens"] for p in points] == [1, 3, 4, 5, 8, 11, 16]
    assert all(sum(p["text"]) + sum(p["vision"]) == p["tokens"] for p in points)
    assert points[-1]["even"] == points[-1]["random"] == [pytest.approx(points[-1]["accuracy"])], (
        "all tokens are one placement"
    )
    best = min(p["loss"] for p in points)
    assert points[taken]["loss"] < best + 1 and math.isfinite(best)
    found = chosen.method_.lengths
    assert found.total == points[taken]["tokens"]
    assert [len(p) for p in chosen.method_.vision_prompts] == list(found.vision)


def test_auto_goes_on_from_a_checkpoint_to_the_same_bits(digits, chosen, tmp_path):
    def stop(record):
        if record["epoch"] == 4:
            raise KeyboardInterrupt

    cut = PromptClassifier("dpl", settings=AUTO, seed=1)
    with pytest.raises(KeyboardInterrupt):
        cut.fit_dataset(digits, checkpoints=tmp_path, on_epoch=stop)
    again = PromptClassifier("dpl", settings=AUTO, seed=1).fit_dataset(digits, checkpoints=tmp_path)
    assert again.method_.lengths == chosen.method_.lengths
    for ours, theirs in zip(again.method_.parameters(), chosen.method_.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_budget_is_a_number_or_auto():
    assert Settings(budget="auto").tokens(48) is None
    with pytest.raises(UserError, match="budget"):
        Settings(budget="some")


def test_auto_without_validation_images_is_refused():
    one_each = data.few_shot(data.load("toy:digits"), 1, 1)
    with pytest.raises(UserError, match="validation images and there are none"):
        PromptClassifier("dpl", settings=AUTO).fit_dataset(replace(one_each, val=[]))


def test_search_prints_and_draws_the_curve(photos, tmp_path, capsys):
    words = ["search", photos, "--shots", 2, "--epochs", 4, "--batch-size", 2, "--budget", "auto"]
    words += ["--text-max", 2, "--vision-max", 2, "--out", tmp_path / "lengths.json"]
    assert vlprompt(*words) == 0
    printed = capsys.readouterr().out
    assert "chosen" in printed and "searched" in printed and "correlation" in printed
    total = Lengths.load(tmp_path / "lengths.json").total
    page = (tmp_path / "lengths.html").read_text()
    assert (
        ">Accuracy by number of tokens<" in page
        and ">1 tokens " in page
        and "the smallest whose loss" in page
    )
    assert vlprompt(*words, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert total in [point["tokens"] for point in answer["curve"][0]]
