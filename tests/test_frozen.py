"""What is frozen is computed once: features on disk, to the bit, and never in the way."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings as ImageBranch

from support import photos_and_labels, same_bits, vlprompt, write_clip, write_photos
from vlprompt import PromptClassifier
from vlprompt.cache import clear, usage
from vlprompt.data import few_shot, read_folder
from vlprompt.engine import features, precision
from vlprompt.engine.backbones.load import load_backbone, shared_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.estimator import fitting
from vlprompt.training.frozen import STORED_BATCH, image_features, view_features

QUICK = {"epochs": 1, "batch_size": 8}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of its own, in which small backbones count, too."""
    monkeypatch.setattr(features, "WORTH", 1)
    monkeypatch.setenv("VLPROMPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), each=14)


@pytest.fixture
def paths(photos):
    return photos_and_labels(photos)[0]


@contextmanager
def counted() -> Iterator[list[int]]:
    """Images that entered the image branch, a number a call."""
    calls: list[int] = []

    def hook(module, arguments, _):
        if isinstance(module, ImageBranch):
            calls.append(len(arguments[0]))

    handle = register_module_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def encoder_of(clip) -> Encoder:
    return Encoder(load_backbone(str(clip)))


def entries(home):
    return sorted(p for p in (home / "features").rglob("*") if p.is_file())


# Nothing twice.


def test_methods_seeds_and_evaluations_share_what_is_frozen(clip, photos, tmp_path):
    pool = few_shot(read_folder(photos, show=False), 10, 1)
    pool = replace(pool, val=(), test=(*pool.val, *pool.test))

    def run(method: str, seed: int, **parameters):
        classifier = PromptClassifier(
            method, str(clip), parameters.pop("settings", {}), seed=seed, device="cpu", **parameters
        )
        classifier.fit_dataset(pool)
        return classifier, classifier.predict_proba([i.image for i in pool.test])

    with counted() as calls:
        first, expected = run("coop", 1, settings=QUICK, augment="none")
        assert sum(calls) >= len(pool.train) + len(pool.test)
        first.save(tmp_path / "kept")
        calls.clear()
        for seed, method, settings in (
            (2, "coop", QUICK),
            (1, "prograd", QUICK),
            (1, "genpt", QUICK),
            (1, "clip_adapter", QUICK),
            (1, "taskres", QUICK),
            (1, "tip", {}),
            (3, "linear", {}),
        ):
            run(method, seed, settings=settings, augment="none")
        assert (PromptClassifier.load(tmp_path / "kept", device="cpu").evaluate(pool.test)) and not calls
        again, found = run("coop", 1, settings=QUICK, augment="none")
        assert not calls and np.array_equal(found, expected)
        assert same_bits(dict(again.method_.named_parameters()), dict(first.method_.named_parameters()))
        run("kgcoop", 1, settings=QUICK, augment="crop+flip", views=2)
        assert sum(calls) == 2 * len(pool.train)
        calls.clear()
        run("coop", 2, settings=QUICK, augment="crop+flip", views=2)
        assert not calls


def test_genpt_encodes_no_image_but_those_that_it_trains_on(clip, photos):
    pool = few_shot(read_folder(photos, show=False), 4, 1)
    settings = {"epochs": 1, "batch_size": len(pool.train)}
    with counted() as calls:
        for augmentation, passes in (("feature", 1), ("context", 2)):
            changes = settings | {"augmentation": augmentation}
            calls.clear()
            classifier = PromptClassifier("genpt", str(clip), changes, augment="crop+flip", device="cpu")
            classifier.fit_dataset(replace(pool, val=()))
            assert sum(calls) == passes * len(pool.train)


def test_the_command_predicts_again_without_the_image_branch(clip, photos, tmp_path, capsys):
    paths, labels = photos_and_labels(photos)
    PromptClassifier("zeroshot", str(clip), device="cpu").fit(paths, labels).save(tmp_path / "kept")
    words = ("predict", tmp_path / "kept", photos, "--format", "json", "--device", "cpu")
    with counted() as calls:
        assert vlprompt(*words) == 0 and sum(calls) == 2 * STORED_BATCH
        first = capsys.readouterr().out
        calls.clear()
        assert vlprompt(*words) == 0 and not calls
    assert json.loads(capsys.readouterr().out) == json.loads(first) and len(json.loads(first)) == len(paths)


def test_the_choice_of_the_precision_is_read_too(clip, photos, monkeypatch):
    monkeypatch.setattr(precision, "WORTH", 1)
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    images, labels = photos_and_labels(photos)
    with counted() as calls:
        first = PromptClassifier("linear", str(clip), device="cpu").fit(images, labels)
        assert sum(calls) >= 2 * fitting.FIRST
        calls.clear()
        second = PromptClassifier("linear", str(clip), device="cpu").fit(images, labels)
        assert not calls and first.method_.encoder.frozen_dtype == second.method_.encoder.frozen_dtype


def test_class_features_are_read_too(clip):
    encoder, rows = encoder_of(clip), encoder_of(clip).tokenize(["a cat", "two dogs"])
    expected = encoder.encode_text(rows), encoder.encode_text(rows, normalize=False)
    calls = []
    handle = register_module_forward_hook(
        lambda module, *_: calls.append(module) if module is again.backbone.text_layers[0] else None
    )
    again = encoder_of(clip)
    try:
        assert torch.equal(again.encode_text(rows), expected[0])
        assert torch.equal(again.encode_text(rows, normalize=False), expected[1])
        assert not calls
        again.encode_text(rows[:1])
        assert len(calls) == 1
    finally:
        handle.remove()


def test_one_backbone_a_process(clip, tmp_path):
    own = shutil.copytree(clip, tmp_path / "own")
    images, labels = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")], ["a", "b"]
    fits = [PromptClassifier(m, str(own), device="cpu").fit(images, labels) for m in ("zeroshot", "linear")]
    assert fits[0].method_.encoder.backbone is fits[1].method_.encoder.backbone
    fits[0].save(tmp_path / "kept")
    loaded = PromptClassifier.load(tmp_path / "kept", device="cpu")
    assert loaded.method_.encoder.backbone is fits[0].method_.encoder.backbone
    (own / "preprocessor_config.json").write_text((own / "preprocessor_config.json").read_text() + " ")
    assert shared_backbone(str(own), torch.device("cpu")) is not loaded.method_.encoder.backbone


# To the bit.


def test_features_are_the_same_to_the_bit_whatever_is_kept(clip, paths, monkeypatch, home):
    monkeypatch.setenv("VLPROMPT_CACHE", "off")
    plain = image_features(encoder_of(clip), paths)
    assert not home.exists()
    monkeypatch.setenv("VLPROMPT_CACHE", str(home))
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    some = image_features(encoder_of(clip), [paths[i] for i in order[: STORED_BATCH + 3]])
    assert torch.equal(some, plain[order[: STORED_BATCH + 3]])
    with counted() as calls:
        assert torch.equal(image_features(encoder_of(clip), paths), plain)
        assert calls == [STORED_BATCH]  # the 7 that were missing, and filled up
        assert torch.equal(image_features(encoder_of(clip), [str(p) for p in paths[::-1]]), plain.flip(0))
        assert len(calls) == 1


def test_a_view_depends_on_the_image_and_its_number(clip, paths, monkeypatch):
    torch.manual_seed(5)
    views = view_features(encoder_of(clip), paths, "crop+flip", 3)  # (V, N, E)
    assert not torch.equal(views[0], views[1])
    clear()
    torch.manual_seed(6)
    state = torch.get_rng_state()
    assert torch.equal(view_features(encoder_of(clip), paths[::-1], "crop+flip", 3), views.flip(1))
    assert torch.equal(torch.get_rng_state(), state)  # a training draws the same, whatever was kept
    monkeypatch.setenv("VLPROMPT_CACHE", "off")
    assert torch.equal(view_features(encoder_of(clip), paths, "crop+flip", 2), views[:2])
    gentle = view_features(encoder_of(clip), paths[:5], "gentle", 2)
    assert torch.equal(view_features(encoder_of(clip), paths[:5][::-1], "gentle", 2), gentle.flip(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_pictures_in_memory_are_known_by_their_pixels(clip, paths):
    encoder = encoder_of(clip)
    pictures = [Image.open(p).convert("RGB") for p in paths[:3]]
    expected = image_features(encoder, pictures)
    with counted() as calls:
        assert torch.equal(image_features(encoder, [np.asarray(p) for p in pictures]), expected)
        assert not calls
        assert not torch.equal(image_features(encoder, [p.rotate(90) for p in pictures]), expected)
        assert calls == [3]


# Another of anything is another feature.


def test_what_decides_a_feature_is_in_its_key(clip, paths, tmp_path, home):
    kept = image_features(encoder_of(clip), paths[:4])
    for file, change in (
        ("preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3]}),
        ("config.json", {"act": "gelu"}),
    ):
        other = shutil.copytree(clip, tmp_path / file)
        content = json.loads((other / file).read_text())
        if file == "config.json":
            content["vision_config"]["hidden_act"] = change["act"]
        (other / file).write_text(json.dumps(content | change))
        assert not torch.equal(image_features(encoder_of(other), paths[:4]), kept)
    rough = encoder_of(clip)
    rough.frozen_dtype = torch.bfloat16
    assert not torch.equal(image_features(rough, paths[:4]), kept)
    copied = shutil.copytree(clip, tmp_path / "elsewhere")
    before = len(entries(home))
    assert torch.equal(image_features(encoder_of(copied), paths[:4]), kept)
    assert len(entries(home)) == before == 16


def test_a_changed_image_is_another(clip, tmp_path):
    file = tmp_path / "one.png"
    Image.new("RGB", (32, 32), "red").save(file)
    red = image_features(encoder_of(clip), [file])
    Image.new("RGB", (32, 32), "blue").save(file)
    assert not torch.equal(image_features(encoder_of(clip), [file]), red)


# Never wrong, never fatal.


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "swapped", "huge"])
def test_damaged_entries_are_computed_again(damage, clip, paths, home):
    expected = image_features(encoder_of(clip), paths)
    whole = [entry.read_bytes() for entry in entries(home)]
    for number, entry in enumerate(entries(home)):
        content = bytearray(whole[number])
        if damage == "empty":
            content = bytearray()
        elif damage == "cut":
            content = content[:-4]
        elif damage == "bit":
            content[-1] ^= 1
        elif damage == "swapped":
            content = bytearray(whole[number - 1])
        else:
            content[:8] = b"\xff" * 8
        entry.write_bytes(content)
    for _ in range(2):
        assert torch.equal(image_features(encoder_of(clip), paths), expected)
    assert [entry.read_bytes() for entry in entries(home)] == whole


def test_no_room_and_no_rights_are_no_hindrance(clip, paths, home, monkeypatch):
    monkeypatch.setenv("VLPROMPT_CACHE", "off")
    expected = image_features(encoder_of(clip), paths)
    monkeypatch.setenv("VLPROMPT_CACHE", str(home))
    monkeypatch.setattr("vlprompt.cache.KEPT_FREE", 1 << 60)
    assert torch.equal(image_features(encoder_of(clip), paths), expected) and not entries(home)
    (home / "file").write_text("in the way")
    monkeypatch.setenv("VLPROMPT_CACHE", str(home / "file"))
    assert torch.equal(image_features(encoder_of(clip), paths), expected)


def encode_often(clip, paths, results):
    torch.set_num_threads(1)
    results.put([image_features(encoder_of(clip), paths).numpy() for _ in range(3)])


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork: starting Python anew takes seconds")
def test_several_processes_at_once(clip, paths):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    running = [context.Process(target=encode_often, args=(clip, paths, results), daemon=True) for _ in "ab"]
    for process in running:
        process.start()
    found = [each for _ in running for each in results.get(timeout=300)]
    for process in running:
        process.join()
    expected = image_features(encoder_of(clip), paths).numpy()
    assert len(found) == 6 and all(np.array_equal(each, expected) for each in found)


def test_the_limit(clip, paths, home, monkeypatch):
    monkeypatch.setattr(features, "LIMIT", 20 * (4 * 24 + 12))
    first = encoder_of(clip)
    image_features(first, paths)
    first.store.cache.trim()
    assert 0 < sum(entry.stat().st_size for entry in entries(home)) <= features.LIMIT


# The command.


def test_the_command_shows_and_clears_what_is_ours(clip, paths, home, capsys):
    image_features(encoder_of(clip), paths)
    (home / "features" / "mine.txt").write_text("not ours")
    assert vlprompt("cache", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["features"]["files"] == len(paths) and rows["features"]["bytes"] == len(paths) * 108
    assert vlprompt("cache", "clear", "decoded", "--json") == 0
    assert usage()[1].files == len(paths)
    assert vlprompt("cache", "clear") == 0
    assert [kind.files for kind in usage()] == [0] * 4
    assert (home / "features" / "mine.txt").exists()


def test_the_command_without_a_cache(monkeypatch, capsys):
    monkeypatch.setenv("VLPROMPT_CACHE", "off")
    assert vlprompt("cache") == 2
    assert "the cache is off (VLPROMPT_CACHE=off)" in capsys.readouterr().err


def test_small_backbones_keep_nothing(clip, paths, home, monkeypatch):
    monkeypatch.setattr(features, "WORTH", 1 << 24)
    image_features(encoder_of(clip), paths)
    assert not home.exists() and Encoder(load_backbone("toy")).store is None
