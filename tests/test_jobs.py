"""What the commands do, called from Python."""

import dataclasses
import re

import pytest

from support import write_photos
from vlprompt import PromptClassifier, UserError, data
from vlprompt.jobs.demo import Entry, demo
from vlprompt.jobs.evaluate import evaluate
from vlprompt.jobs.fit import fit, with_lengths
from vlprompt.jobs.search import Search, search
from vlprompt.methods import get_method
from vlprompt.methods.lengths import Lengths

DPL = {"text_max": 2, "vision_max": 2, "search_epochs": 1, "epochs": 1, "batch_size": 10}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return data.few_shot(data.load(str(write_photos(tmp_path_factory.mktemp("photos")))), 2, 1, strict=True)


def test_fit_writes_what_it_returns(photos, tmp_path):
    out, classifier = tmp_path / "tuned", PromptClassifier("coop", settings={"epochs": 1}, seed=3)
    run = fit(classifier, photos, out, command="my own script", files={"note.txt": "é"})
    assert (run.method, run.seed, run.classnames) == ("coop", 3, photos.classnames)
    assert run.measured == {"test": classifier.evaluate(photos.test)} and len(run.history) == 1
    assert (out / "note.txt").read_text(encoding="utf-8") == "é"
    assert "my own script" in (out / "report.html").read_text(encoding="utf-8")
    again = PromptClassifier.load(out)
    assert again.measured_ == run.measured and again.evaluate(photos.test) == run.measured["test"]
    assert not (out / "checkpoints").exists() and [p.name for p in tmp_path.iterdir()] == ["tuned"]


def test_evaluate_matches_classes_by_name(photos):
    classifier = PromptClassifier("zeroshot").fit_dataset(photos)
    first, *others = photos.classnames
    kept = [item._replace(label=len(others) - item.label) for item in photos.test if item.label]
    fewer = dataclasses.replace(photos, classnames=tuple(reversed(others)), test=kept)
    assert evaluate(classifier, photos) == classifier.evaluate(photos.test)
    assert evaluate(classifier, fewer) == classifier.evaluate([item for item in photos.test if item.label])
    with pytest.raises(UserError, match=f"class 'else' of '{photos.name}' is not one of"):
        evaluate(classifier, dataclasses.replace(photos, classnames=(first, "else", others[0])))


def test_evaluate_refuses_a_name_that_several_of_the_classes_have(photos):
    twice = dataclasses.replace(photos, classnames=("x", "x", "y"))
    classifier = PromptClassifier("zeroshot").fit_dataset(twice)
    assert evaluate(classifier, twice)["n"] == len(twice.test)
    with pytest.raises(UserError, match=f"class 'x' of '{photos.name}' is the name of 2 of the classifier's"):
        evaluate(classifier, dataclasses.replace(photos, classnames=("y", "x", "x")))


def test_evaluate_leaves_out_what_was_trained_on(photos, tmp_path, capsys):
    """Whatever the files' names are now; arrays, too; and it says so where it cannot know."""
    classifier = PromptClassifier("zeroshot").fit_dataset(photos)
    copies = []
    for number, item in enumerate(photos.train):
        copy = tmp_path / f"{number}.png"
        copy.write_bytes(item.image.read_bytes())
        copies.append(item._replace(image=copy))
    leaky = dataclasses.replace(photos, test=[*photos.test, *copies])
    assert evaluate(classifier, leaky) == classifier.evaluate(photos.test)
    assert f"{len(copies)} of {len(leaky.test)} images of" in capsys.readouterr().err
    assert evaluate(classifier, dataclasses.replace(photos, train=copies, val=[], test=[]))["n"] == 6
    assert re.search("all 6 images of .* were trained on", capsys.readouterr().err)
    digits = data.load("toy:digits")
    digits = dataclasses.replace(digits, train=digits.train[:200])
    with_arrays = PromptClassifier("zeroshot").fit_dataset(data.few_shot(digits, 1, 1))
    assert evaluate(with_arrays, digits)["n"] == 190
    classifier.trained_on_ = None  # saved before it was kept
    capsys.readouterr()
    assert evaluate(classifier, dataclasses.replace(photos, val=[], test=[]))["n"] == 6
    assert "may have been trained on are measured, too" in capsys.readouterr().err


def test_lengths_go_to_the_branches_that_a_method_prompts():
    lengths = Lengths((1, 2), (3, 4))
    vpt = dataclasses.asdict(get_method("vpt").Settings())
    assert with_lengths("vpt", vpt, lengths) == vpt | {"vision_lengths": (3, 4)}
    with pytest.raises(UserError, match="method 'coop' takes no lengths"):
        with_lengths("coop", {"n_ctx": 16}, lengths)


def test_search_votes_and_writes(tmp_path):
    settings = get_method("dpl").Settings(**DPL)
    out, pool = tmp_path / "lengths.json", data.load("toy:colours")
    found = search(pool, Search(settings), out, shots=2, seeds=(1, 2), command="my own script")
    assert list(found.found) == [1, 2] and found.accuracy == {}
    assert Lengths.load(out) == found.lengths
    assert found.report == tmp_path / "lengths.html" and "my own script" in found.report.read_text()


def test_demo_trains_all_methods_and_reports_them_together(tmp_path, monkeypatch):
    few = write_photos(tmp_path / "photos")  # test_package.py has the digits
    monkeypatch.setattr("vlprompt.jobs.demo.DATA", str(few))
    entries = {"zeroshot": Entry("Zero-shot CLIP", "zeroshot"), "coop": Entry("CoOp", "coop", {"epochs": 1})}
    runs = demo(tmp_path, (1, 2), 1, entries=entries)
    assert [(r.method, r.seed) for r in runs] == [("zeroshot", 1), ("coop", 1), ("zeroshot", 2), ("coop", 2)]
    for run in runs:
        kept = PromptClassifier.load(tmp_path / f"{run.method}-seed{run.seed}")
        assert kept.measured_ == run.measured
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Zero-shot" in page and "CoOp" in page and "vlprompt demo --seeds 1 2 --shots 1" in page
