"""Backbones as the hub serves them, from a hub on loopback: every kind of weights, then without it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.convert_slow_tokenizer import bytes_to_unicode

from loopback_hub import Hub
from support import random_clip, write_clip
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.errors import UserError

KINDS = ("whole", "bin", "sharded", "shardedbin", "pinned", "branch", "gone", "cut")
ONLINE = """
import sys, json, urllib.request
from pathlib import Path
from vlprompt import PromptClassifier, UserError, data
out, hub, pinned, *kinds = sys.argv[1:]
task, answers = data.load("toy:shapes"), {}
few = data.few_shot(task, 1, 1)
for kind in kinds:
    name = f"me/{kind}" + {"pinned": f"@{pinned}", "branch": "@v1"}.get(kind, "")
    clip = PromptClassifier("zeroshot", name, device="cpu")
    if kind == "cut":
        try:
            clip.fit_dataset(few)
        except UserError as error:
            answers["refused"] = str(error)
        urllib.request.urlopen(hub + "/heal").read()
    clip.fit_dataset(few).save(Path(out) / kind)
    backbone = clip.method_.encoder.backbone
    probabilities = clip.predict_proba([i.image for i in task.test[:3]])
    answers[kind] = [backbone.revision, backbone.digest, probabilities.tolist()]
print(json.dumps(answers))
"""
OFFLINE = """
import sys, json
from pathlib import Path
from vlprompt import PromptClassifier, data
out, *kinds = sys.argv[1:]
images = [i.image for i in data.load("toy:shapes").test[:3]]
kept = {kind: PromptClassifier.load(Path(out) / kind, device="cpu") for kind in kinds}
few = data.few_shot(data.load("toy:shapes"), 1, 1)
kept["again"] = PromptClassifier("zeroshot", "me/branch@v1", device="cpu").fit_dataset(few)  # by its name
print(json.dumps({kind: classifier.predict_proba(images).tolist() for kind, classifier in kept.items()}))
"""


def shards(folder: Path, safe: bool) -> None:
    """The weights in two files and their index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    names, where = sorted(tensors), {}
    for part, keys in enumerate((names[::2], names[1::2])):
        file = f"{stem}-{part + 1:05}-of-00002.{suffix}"
        content = {key: tensors[key] for key in keys}
        save_file(content, folder / file, {"format": "pt"}) if safe else torch.save(content, folder / file)
        where |= dict.fromkeys(keys, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def run(code: str, *words: object, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What a process saw that loaded every kind from the hub, and one after it without a hub."""
    root = tmp_path_factory.mktemp("hub")
    for kind in KINDS:
        folder = write_clip(root / "me" / kind, safe=kind not in ("bin", "pinned", "cut"))
        (folder / "README.md").write_text(f"# {kind}")
        if kind.startswith("sharded"):
            shards(folder, safe=kind == "sharded")
    hub = Hub(root)
    hub.cut = {"me/cut"}
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(root / "home"),
        "VLPROMPT_CACHE": str(root / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    pinned = hub.commit("me/pinned")
    first = run(ONLINE, root / "out", hub.url, pinned, *KINDS, **own, HF_HUB_OFFLINE="0")
    sent = list(hub.served)
    shutil.rmtree(root / "me" / "gone")
    second = run(OFFLINE, root / "out", *KINDS, **own, HF_HUB_OFFLINE="0")  # a hub that lost one of them
    resent = hub.served[len(sent) :]
    hub.shutdown()
    hub.server_close()
    third = run(OFFLINE, root / "out", *KINDS, **own, HF_HUB_OFFLINE="1")
    return {"first": first, "second": second, "third": third, "sent": sent, "resent": resent, "pin": pinned}


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_and_loads_again_without_the_hub(kind, served):
    revision, digest, probabilities = served["first"][kind]
    assert len(revision) == 40
    assert [digest, probabilities] == served["first"]["whole"][1:]  # one model in all of them
    assert served["second"][kind] == served["third"][kind] == probabilities


def test_weights_are_sent_once_and_nothing_else_is_asked_for(served):
    weights = [path for path in served["sent"] if path.endswith((".bin", ".safetensors"))]
    once = [path for path in weights if "me/cut" not in path]
    assert len(once) == len(set(once)) == 9
    assert not served["resent"] and not any(path.endswith(".md") for path in served["sent"])


def test_a_pinned_commit_is_that_commit(served):
    assert served["first"]["pinned"][0] == served["pin"]


def test_a_branch_is_known_by_its_name_without_the_hub(served):
    revision, _, probabilities = served["first"]["branch"]
    assert len(revision) == 40
    assert served["second"]["again"] == served["third"]["again"] == probabilities


def test_a_connection_that_is_cut_leaves_nothing_behind(served):
    assert "model 'me/cut'" in served["first"]["refused"] and "\n" not in served["first"]["refused"]


def test_sizes_are_said_before(served):
    said = served["first"]["stderr"]
    assert "me/bin: " in said and "MB from the hub" in said
    assert "pytorch_model.bin (0 MB) is converted once to safetensors in" in said
    assert "converted" not in served["second"]["stderr"] + served["third"]["stderr"]


# Pickled weights in a folder.


@pytest.fixture
def pickled(tmp_path, monkeypatch):
    monkeypatch.setenv("VLPROMPT_CACHE", str(tmp_path / "cache"))
    return write_clip(tmp_path / "pickled", safe=False)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_backbone(str(folder)).model.state_dict())


def test_a_conversion_is_read_only_whole(pickled, tmp_path):
    stock = random_clip().state_dict()
    for _ in range(2):
        loaded = weights_of(pickled)
        assert all(torch.equal(loaded[key], stock[key]) for key in stock)
        (kept,) = (tmp_path / "cache" / "weights").iterdir()
        kept.write_bytes(kept.read_bytes()[:-400])  # the second reading finds it damaged
    other = {key: value + 1 for key, value in stock.items()}
    torch.save(other, pickled / "pytorch_model.bin")
    assert torch.equal(weights_of(pickled)["logit_scale"], other["logit_scale"])


def test_without_a_cache_the_pickle_is_read(pickled, monkeypatch):
    monkeypatch.setenv("VLPROMPT_CACHE", "off")
    stock = random_clip().state_dict()
    assert all(torch.equal(value, stock[key]) for key, value in weights_of(pickled).items())


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"logit_scale": torch.ones(()), "run": Evil()}, r"'(posix|nt)\.system', which is no tensor"),
        ({"epoch": 7}, "'epoch', which is no tensor"),
        ([torch.ones(())], "'list', which is no tensor"),
        ({"state_dict": {"logit_scale": torch.ones(())}}, "'state_dict', which is no tensor"),
    ],
    ids=["code", "number", "list", "nested"],
)
def test_pickles_with_anything_but_tensors_are_refused_by_name(
    content, named, pickled, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.save(content, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"pytorch_model.bin holds {named}") as error:
        load_backbone(str(pickled))
    assert "\n" not in str(error.value) and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(7)[:2]], ids=["empty", "text", "half"])
def test_damaged_pickles(content, pickled):
    (pickled / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"pytorch_model\.bin (is damaged|holds)") as error:
        load_backbone(str(pickled))
    assert "\n" not in str(error.value)


def test_an_old_torch_is_refused(pickled, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(UserError, match=r"torch 2\.5\.1 cannot read safely: update torch to 2\.6"):
        load_backbone(str(pickled))


def test_a_repository_of_old(pickled):
    """Half precision, position_ids, text_config_dict, integer sizes, vocab.json and merges.txt alone."""
    expected = weights_of(pickled)
    state = {key: value.half() for key, value in random_clip().state_dict().items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state, pickled / "pytorch_model.bin")
    config = json.loads((pickled / "config.json").read_text())
    config |= {"text_config_dict": config["text_config"], "vision_config_dict": config["vision_config"]}
    (pickled / "config.json").write_text(json.dumps(config))
    old = {"crop_size": 32, "size": 32, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    old |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "do_center_crop": True}
    (pickled / "preprocessor_config.json").write_text(json.dumps(old))
    letters = bytes_to_unicode().values()
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    ends = {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    (pickled / "tokenizer.json").unlink()
    (pickled / "vocab.json").write_text(json.dumps(vocabulary | ends))
    (pickled / "merges.txt").write_text("#version: 0.2\n")
    (pickled / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    backbone = load_backbone(str(pickled))
    assert backbone.dtype == torch.float32
    for key, value in backbone.model.state_dict().items():
        torch.testing.assert_close(value, expected[key].half().float(), rtol=0, atol=0)
    word = [vocabulary[token] for token in ("c", "a", "t</w>")]
    assert backbone.tokenizer(["Cat"])["input_ids"] == [[512, *word, 513]]
    assert backbone.processor.crop_size["height"] == 32
