"""Frozen language models: exact against the stock model, texts of any lengths, a head, refusals."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache

import language_models
from language_models import POSITIONS, in_float64
from support import photos_and_labels, vlprompt
from test_vision_models import agree
from vlprompt import PromptClassifier, TextPromptClassifier, UserError, data
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.prompt import KeyValue, Prompt

CLOSE = {"rtol": 0, "atol": 1e-10}
FAMILIES = tuple(language_models.STOCK)
TEXTS = ("the first text", "b", "another, which is quite a bit longer than the others", "the first test", "b")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("language")
    return {family: language_models.write(family, root / family) for family in FAMILIES}


def encoder_of(folder) -> Encoder:
    backbone = load_backbone(str(folder), dtype=torch.float64)
    in_float64(backbone.model)
    return Encoder(backbone)


def padded(rows):
    """Ids (B, T) and which of them are there."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]).bool()


def read(family, hidden, there):
    """The last token's state, or the mean of all."""
    if family == "bert":
        feature = (hidden * there[..., None]).sum(1) / there.sum(1, keepdim=True)
    else:
        feature = hidden[torch.arange(len(there)), there.sum(1) - 1]
    return F.normalize(feature, dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_prompts_it_is_the_stock_model(family, folders):
    encoder = encoder_of(folders[family])
    stock = language_models.STOCK[family].from_pretrained(folders[family], dtype=torch.float64).eval()
    in_float64(stock)
    rows = encoder.read_texts(TEXTS)
    ids, there = padded(rows)
    theirs = stock(input_ids=ids, attention_mask=there.long()).last_hidden_state
    torch.testing.assert_close(encoder.encode_text(rows), read(family, theirs, there), **CLOSE)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_prompts_are_the_stock_model_s_cache(family, folders):
    """Equal lengths in all layers: prompts as the stock model's own cache, mask and positions given."""
    encoder = encoder_of(folders[family])
    backbone = encoder.backbone
    stock = language_models.STOCK[family].from_pretrained(folders[family], dtype=torch.float64).eval()
    in_float64(stock)
    torch.manual_seed(5)
    tokens = [torch.randn(2, 32, dtype=torch.float64) for _ in range(3)]
    rows = encoder.read_texts(TEXTS)
    ids, there = padded(rows)
    cache = DynamicCache()
    for index, layer in enumerate(backbone.text_layers):
        key, value = backbone.keys_values(layer, tokens[index])
        cache.update(*(x.expand(len(ids), -1, -1, -1) for x in (key, value)), index)
    mask = torch.cat([torch.ones(len(ids), 2), there], 1).long()
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
    with torch.no_grad():
        theirs = stock(ids, cache=cache, attention_mask=mask, position_ids=positions).last_hidden_state
        ours = encoder.encode_text(rows, Prompt(keys_values=[KeyValue(p) for p in tokens]))
    torch.testing.assert_close(ours, read(family, theirs, there), **CLOSE)


def turned(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def plain(family, model, rows, keys_values):
    """Padded rows, stock modules one by one, prompt keys and values in front by hand, mask written out."""
    ids, there = padded(rows)
    places = torch.arange(ids.shape[1])
    after = torch.zeros(len(places), len(places), dtype=torch.bool)
    if family != "bert":
        after = places[None] > places[:, None]
    hidden_keys = after[None, None] | ~there[:, None, None]  # (B, 1, T, T)
    if family == "gpt2":
        x, layers = model.wte(ids) + model.wpe(places), model.h
    elif family == "bert":
        x, layers = model.embeddings(input_ids=ids), model.encoder.layer
    else:
        x, layers = model.embed_tokens(ids), model.layers
        cos, sin = model.rotary_emb(x, places[None])
    for layer, tokens in zip(layers, keys_values, strict=True):
        if family == "gpt2":
            normed, own = layer.ln_1(x), layer.ln_1(tokens)
            q, k, v = layer.attn.c_attn(normed).split(32, -1)
            _, k0, v0 = layer.attn.c_attn(own).split(32, -1)
        else:
            attn = layer.attention.self if family == "bert" else layer.self_attn
            names = ("query", "key", "value") if family == "bert" else ("q_proj", "k_proj", "v_proj")
            normed, own = (x, tokens) if family == "bert" else map(layer.input_layernorm, (x, tokens))
            q, k, v = (getattr(attn, name)(normed) for name in names)
            k0, v0 = (getattr(attn, name)(own) for name in names[1:])
        q, k, v, k0, v0 = (t.unflatten(-1, (-1, 8)).transpose(-3, -2) for t in (q, k, v, k0, v0))
        if family in ("llama", "qwen2"):
            q, k = turned(q, cos, sin), turned(k, cos, sin)
        k, v = (torch.cat([a.expand(len(x), -1, -1, -1), b], 2) for a, b in ((k0, k), (v0, v)))
        if k.shape[1] < q.shape[1]:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        mask = torch.cat([hidden_keys.new_zeros(*hidden_keys.shape[:3], len(tokens)), hidden_keys], -1)
        scores = (q @ k.mT / 8**0.5).masked_fill(mask, -torch.inf)
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        if family == "gpt2":
            x = x + layer.attn.c_proj(out)
            x = x + layer.mlp(layer.ln_2(x))
        elif family == "bert":
            x = layer.attention.output(out, x)
            x = layer.output(layer.intermediate(x), x)
        else:
            x = x + layer.self_attn.o_proj(out)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
    if family != "bert":
        x = model.ln_f(x) if family == "gpt2" else model.norm(x)
    return read(family, x, there)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("memory", [1 << 40, 1], ids=["together", "in chunks"])
def test_prompts_of_other_lengths_in_every_layer(family, memory, folders):
    encoder = encoder_of(folders[family])
    encoder.memory = memory
    torch.manual_seed(5)
    tokens = [torch.randn(n, 32, dtype=torch.float64, requires_grad=True) for n in (2, 0, 3)]
    rows = encoder.read_texts(TEXTS)
    ours = encoder.encode_text(rows, Prompt(keys_values=[KeyValue(p) for p in tokens]))
    agree(ours, plain(family, encoder.backbone.model, rows, tokens), [tokens[0], tokens[2]])


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_together_are_texts_one_at_a_time(family, folders):
    encoder = encoder_of(folders[family])
    torch.manual_seed(5)
    prompt = Prompt(keys_values=[KeyValue(torch.randn(n, 32, dtype=torch.float64)) for n in (2, 1, 3)])
    with torch.no_grad():
        together = encoder.encode_text(encoder.read_texts(TEXTS), prompt)
        alone = torch.cat([encoder.encode_text(encoder.read_texts([text]), prompt) for text in TEXTS])
    torch.testing.assert_close(together, alone, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_gates_are_no_tokens(family, folders):
    encoder = encoder_of(folders[family])
    torch.manual_seed(5)
    tokens = [torch.randn(3, 32, dtype=torch.float64) for _ in range(3)]
    gates = torch.tensor([0.0, -torch.inf, 0.0], dtype=torch.float64)
    rows = encoder.read_texts(TEXTS)
    with torch.no_grad():
        gated = encoder.encode_text(rows, Prompt(keys_values=[KeyValue(p, log_gates=gates) for p in tokens]))
        fewer = encoder.encode_text(rows, Prompt(keys_values=[KeyValue(p[[0, 2]]) for p in tokens]))
    torch.testing.assert_close(gated, fewer, **CLOSE)


# The classifier.

GOOD = ["good " + "so " * n + "fine" for n in range(8)]
BAD = ["bad " + "very " * n + "poor" for n in range(8)]
LABELS = ["good"] * 8 + ["bad"] * 8


@pytest.mark.parametrize(
    ("name", "family", "settings"),
    [
        ("linear", "gpt2", {}),
        ("dpl", "gpt2", {"epochs": 2, "budget": 4}),
        ("dpl", "llama", {"epochs": 1, "search": "alphas", "search_epochs": 1}),
        ("dpl", "bert", {"epochs": 2, "fresh": True}),
        ("linear", "qwen2", {}),
    ],
)
def test_methods_train_and_are_kept(name, family, settings, folders, tmp_path):
    classifier = TextPromptClassifier(name, str(folders[family]), settings, device="cpu")
    classifier.fit(GOOD + BAD, LABELS).save(tmp_path / "kept")
    again = TextPromptClassifier.load(tmp_path / "kept", device="cpu")
    assert (again.predict_proba(GOOD) == classifier.predict_proba(GOOD)).all()
    assert classifier.score(GOOD + BAD, LABELS) > 0.7
    if classifier.method_.lengths:
        assert classifier.method_.lengths.vision == () and len(classifier.method_.lengths.text) == 3
    with pytest.raises(UserError, match="reads texts, and this is for images"):
        PromptClassifier.load(tmp_path / "kept", device="cpu")


@pytest.fixture(scope="module")
def tuned(folders):
    settings = {"text_lengths": (1, 0, 2), "epochs": 2}
    return TextPromptClassifier("dpl", str(folders["gpt2"]), settings, device="cpu").fit(GOOD + BAD, LABELS)


def test_classes_are_added_from_examples(tuned, tmp_path):
    tuned.save(tmp_path / "kept")
    more = TextPromptClassifier.load(tmp_path / "kept", device="cpu")
    with pytest.raises(UserError, match="reads no class names"):
        more.set_classes(["cat", "dog"])
    other = ["0123456789", "012345678901", "01234567"]
    more.add_classes(other, ["digits"] * 3)
    assert list(more.predict(other)) == ["digits"] * 3


def test_an_array_of_texts_and_no_text(tuned):
    assert tuned.predict(np.array(GOOD)).shape == (8,)
    with pytest.raises(UserError, match="'good' is one text, not a list"):
        tuned.predict("good")
    with pytest.raises(UserError, match="int is no text"):
        tuned.predict([3])
    with pytest.raises(UserError, match="text 2 of 2 is empty: leave it out"):
        tuned.predict(["good", " "])


def test_what_is_too_long_is_cut_and_counted(tuned, caplog):
    long = "x" * POSITIONS
    with caplog.at_level(logging.WARNING, "vlprompt"):
        cut, whole = tuned.predict_proba([long + " good", "good", long + "bad"]), tuned.predict_proba([long])
    assert [r.getMessage() for r in caplog.records] == ["2 of 3 texts are longer than 64 tokens and were cut"]
    np.testing.assert_allclose(cut[0], whole[0], atol=1e-6)
    np.testing.assert_allclose(cut[2], whole[0], atol=1e-6)


def test_images_and_texts_are_not_mixed_up(folders, photos, tuned):
    images, labels = photos_and_labels(photos)
    with pytest.raises(UserError, match=r"holds images and '.*gpt2' reads texts: give a model with a vision"):
        PromptClassifier("dpl", str(folders["gpt2"]), device="cpu").fit(images, labels)
    with pytest.raises(UserError, match="holds texts and 'toy' reads images: give a language model"):
        TextPromptClassifier("dpl", "toy", device="cpu").fit(GOOD + BAD, LABELS)
    with pytest.raises(UserError, match="shows parts of an image, and this classifier reads texts"):
        tuned.explain("good")


@pytest.mark.parametrize("name", ["coop", "vpt", "clip_lora"])
def test_methods_that_need_another_branch_say_so(name, folders):
    classifier = TextPromptClassifier(name, str(folders["gpt2"]), device="cpu")
    with pytest.raises(UserError, match=f"method '{name}' needs a vision branch, which backbone"):
        classifier.fit(GOOD + BAD, LABELS)


# The command, and files.


def write_csv(file, rows, head="text,label"):
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def test_the_commands(folders, tmp_path, capsys):
    rows = [f"{text},{label}" for text, label in zip(GOOD + BAD, LABELS, strict=True)]
    file = write_csv(tmp_path / "reviews.csv", rows, "words,stars")
    columns = ("--text-column", "words", "--label-column", "stars")
    fit = ("fit", file, *columns, "--model", folders["llama"], "--method", "dpl", "--epochs", 2, "--shots", 4)
    assert vlprompt(*fit, "--out", tmp_path / "out", "--device", "cpu") == 0
    assert json.loads((tmp_path / "out" / "lengths.json").read_text())["vision"] == []
    assert "TextPromptClassifier" in (tmp_path / "out" / "README.md").read_text()
    capsys.readouterr()
    assert vlprompt("evaluate", tmp_path / "out", file, *columns, "--json", "--device", "cpu") == 0
    assert json.loads(capsys.readouterr().out)["test"]["n"] == 16 - 8  # without those of the training
    text = ("predict", tmp_path / "out", "a good text", "--format", "json", "--device", "cpu")
    assert vlprompt(*text) == 0
    assert json.loads(capsys.readouterr().out)[0]["text"] == "a good text"
    assert vlprompt("export", tmp_path / "out", tmp_path / "c.onnx", "--device", "cpu") == 2
    assert "reads texts, and this is for images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "head", "match"),
    [
        (["a,b"], "words,label", r"has the columns words, label: name them .* or, of texts, text,label"),
        (["a,b"], "text,stars", r"none named label"),
        (["a,b", "c,b"], "text,label", "names 1 class: it needs two or more"),
        (["a,b", " ,c"], "text,label", "line 3: text or label is empty"),
        (["a,b,train", "c,d,elsewhere"], "text,label,split", "split 'elsewhere' is none of train, val, test"),
        (["a,b,train", "c,d,test"], "text,label,split", "class 'd' of .* has no training text"),
    ],
)
def test_csv_files_that_cannot_be_used(rows, head, match, tmp_path):
    file = write_csv(tmp_path / "bad.csv", rows, head)
    with pytest.raises(UserError, match=match) as error:
        data.load(str(file))
    assert "\n" not in str(error.value)


def test_a_hub_data_set_of_texts(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    content = {"text": [*GOOD, *BAD, ""], "label": [1] * 8 + [0] * 8 + [0]}
    datasets.Dataset.from_dict(content, features).save_to_disk(tmp_path / "set")
    found = data.load(f"hub:{tmp_path / 'set'}")
    assert found.texts and found.classnames == ("bad", "good") and len(found.train) == 16


def test_columns_that_were_named_and_are_not_there(tmp_path):
    file = write_csv(tmp_path / "other.csv", ["a,b", "c,d"], "words,label")
    with pytest.raises(UserError, match=r"has the columns words, label and none named body: name the column"):
        data.load(str(file), columns=data.Columns("body"))
