"""What is said before, during and after a run: its cost, how far it is, what it replaces, what is next."""

import json
import re
from itertools import count

import pytest
from transformers.utils import logging

from support import vlprompt
from test_bench_report import record
from vlprompt import PromptClassifier, TextPromptClassifier, data, progress
from vlprompt.benchmark.store import Store
from vlprompt.dataset import Dataset, Item, Text
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.estimator.cost import estimate

PAPER = {"search": "alphas", "text_max": 2, "vision_max": 2, "search_epochs": 3, "epochs": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def sample(photos):
    return data.few_shot(data.load(str(photos)), 2, 1)


@pytest.mark.parametrize(
    ("method", "settings", "how"),
    [
        ("coop", {"epochs": 3}, {"augment": "crop"}),
        ("coop", {"epochs": 4, "batch_size": 4}, {"augment": "crop", "views": 5}),
        ("dpl", PAPER, {}),
        ("linear", {}, {}),
        ("zeroshot", {}, {}),
    ],
)
def test_a_plan_counts_the_steps_that_the_training_takes(method, settings, how, sample):
    classifier = PromptClassifier(method, settings=settings, **how)
    cost = estimate(classifier, sample)
    assert not hasattr(classifier, "method_")
    classifier.fit_dataset(sample)
    epochs = len(classifier.history_)
    assert cost.steps == epochs * max(len(sample.train) // classifier.method_.settings.batch_size, 1)
    assert 0 < cost.seconds < 60 and cost.memory > 1 << 20
    assert bool(cost.faster) == (method == "dpl" or how == {"augment": "crop"})


def test_a_plan_of_texts():
    texts = [Item(Text(f"{word} number {i}"), k) for k, word in enumerate(("cold", "warm")) for i in range(8)]
    classifier = TextPromptClassifier(settings={"epochs": 2, "batch_size": 8, "text_max": 2})
    cost = estimate(classifier, Dataset("texts", ("cold", "warm"), texts))
    assert cost.steps == 2 * 2 and cost.seconds > 0


def test_fit_plans_without_writing(photos, tmp_path, capsys):
    words = ["fit", photos, "--out", tmp_path / "x", "--shots", 2, "--epochs", 2, "--plan"]
    assert vlprompt(*words) == 0
    said = capsys.readouterr().out
    assert re.search(r"^images +train 6, val 6, test 9$", said, re.M) and re.search(r"^steps +2$", said, re.M)
    assert vlprompt(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2 and not list(tmp_path.iterdir())


def test_a_run_says_what_it_replaces_where_it_is_and_what_is_next(photos, tmp_path, capsys):
    out = tmp_path / "kept"
    words = ["fit", photos, "--out", out, "--shots", 2, "--epochs", 1, "--views", 3]
    assert vlprompt(*words) == 0
    said = capsys.readouterr()
    assert "views 3 change nothing: images are not augmented" in said.err and "holds" not in said.err
    assert f"vlprompt predict {out} photo.jpg" in said.out and f"vlprompt evaluate {out}" in said.out
    assert "calibration error" in said.out and "ece" not in said.out
    assert vlprompt(*words, "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert vlprompt(*words[:4], "--method", "zeroshot", "--shots", 7) == 0
    said = capsys.readouterr()
    assert re.search(
        r"holds a finished classifier \(coop\), \d+\.\d % right on test: it is replaced", said.err
    )
    assert "not measured: nothing was left for testing" in said.out


def test_what_goes_on_says_so(sample, tmp_path, capsys):
    def stop(epoch):
        if epoch["epoch"] == 1:
            raise KeyboardInterrupt

    classifier = PromptClassifier("coop", settings={"epochs": 4}, verbose=True)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit_dataset(sample, tmp_path, stop)
    assert "goes on" not in capsys.readouterr().err
    classifier.fit_dataset(sample, tmp_path)
    assert "train: goes on after epoch 2 of 4" in capsys.readouterr().err


def test_without_a_terminal_there_is_a_line_every_tenth_of_the_way(monkeypatch, capsys):
    clock = count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: 2.0 * next(clock))
    with progress.meter("train", 100, done=20, faster="less") as advance:
        for _ in range(80):
            advance("loss 1.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 100 steps, about 3 min; faster: less"
    assert lines[1] == "train 30/100 loss 1.0, about 2 min left" and len(lines) == 1 + 7
    with progress.meter("train", 100, show=False) as advance:
        for _ in range(100):
            advance("")
    assert capsys.readouterr().err == ""


def test_the_page_of_a_benchmark_stands_beside_its_results(tmp_path, capsys):
    Store(tmp_path / "results.jsonl").append(record("coop", "cats", 70.0))
    assert vlprompt("report", tmp_path) == 0
    assert f"report in {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file()


def test_a_library_s_own_bars_stay_out_of_a_caller_s_way(capsys):
    logging.enable_progress_bar()
    try:
        load_backbone("toy")
        assert capsys.readouterr().err == "" and logging.is_progress_bar_enabled()
    finally:
        logging.disable_progress_bar()
