"""Learned contexts in words, against distances computed plainly."""

import json

import numpy as np
import pytest
import tyro

from vlprompt import PromptClassifier, UserError
from vlprompt.cli.words import words
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.insight.words import nearest_words
from vlprompt.methods import get_method

NAMES = ("red circle", "blue square")


@pytest.fixture(scope="module")
def toy() -> Encoder:
    return Encoder(load_backbone("toy"))


def build(encoder: Encoder, name: str, **settings):
    kind = get_method(name)
    return kind(encoder, NAMES, kind.Settings(**settings))


def test_a_context_that_starts_from_words_reads_as_these(toy):
    found = nearest_words(build(toy, "coop", ctx_init="a photo of a"))
    assert [token.number for token in found] == [1, 2, 3, 4]
    for way in ("by_distance", "by_cosine"):
        first = [getattr(token, way)[0] for token in found]
        assert [near.word for near in first] == ["a", "photo", "of", "a"]
        assert [near.distance for near in first] == [0, 0, 0, 0]
        assert [near.cosine for near in first] == pytest.approx([1, 1, 1, 1])


def test_distances_and_cosines(toy):
    method = build(toy, "coop", n_ctx=3)
    tokens = method.ctx.detach().double().numpy()
    vocabulary = toy.backbone.model.text_model.embeddings.token_embedding.weight.double().numpy()
    distance = np.sqrt(((tokens[:, None] - vocabulary) ** 2).sum(-1))
    norms = np.linalg.norm(tokens, axis=1)[:, None] * np.linalg.norm(vocabulary, axis=1)
    cosine = tokens @ vocabulary.T / norms
    for i, token in enumerate(nearest_words(method, top=7)):
        assert len(token.by_distance) == len(token.by_cosine) == 7
        np.testing.assert_allclose(
            [n.distance for n in token.by_distance], np.sort(distance[i])[:7], atol=1e-5
        )
        np.testing.assert_allclose([n.cosine for n in token.by_cosine], -np.sort(-cosine[i])[:7], atol=1e-5)
        nearest = toy.backbone.tokenizer.convert_ids_to_tokens(int(distance[i].argmin()))
        assert token.by_distance[0].word in nearest
        assert token.by_distance[0].cosine == pytest.approx(cosine[i, distance[i].argmin()], abs=1e-5)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_class_specific_contexts_belong_to_their_classes(toy, position):
    method = build(toy, "coop", n_ctx=2, class_specific=True, position=position)
    method.ctx.data[3] = toy.embed(toy.tokenize(["photo"])[0][1:-1])[0]
    found = nearest_words(method, 1)
    assert [(t.class_name, t.number) for t in found] == [
        ("red circle", 1),
        ("red circle", 2),
        ("blue square", 1),
        ("blue square", 2),
    ]
    assert found[3].by_distance[0].word == "photo"


@pytest.mark.parametrize("name", ["cocoop", "kgcoop", "prograd", "maple", "ivlp", "promptsrc"])
def test_every_learned_text_context_has_words(toy, name):
    method = build(toy, name)
    found = nearest_words(method, 1)
    assert [t.number for t in found] == list(range(1, len(method.ctx) + 1))
    assert {t.class_name for t in found} == {""}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("zeroshot", {}),
        ("vpt", {}),
        ("dpl", {"text_lengths": (1,) * 4, "vision_lengths": (1,) * 4}),
        ("dpl", {"text_lengths": (1,) * 4, "vision_lengths": (1,) * 4, "text": "ensemble"}),
    ],
    ids=["zeroshot", "vpt", "dpl", "dpl with a frozen context"],
)
def test_no_words_without_a_learned_text_context(toy, name, settings):
    assert nearest_words(build(toy, name, **settings)) == []


def test_words_are_clean(toy):
    everything = nearest_words(build(toy, "coop", n_ctx=1), top=10_000)[0].by_distance
    texts = [near.word for near in everything]
    assert len(texts) == len(toy.backbone.tokenizer)
    assert {"photo", "circle", "<start>"} <= set(texts)
    assert all(text and text.isprintable() and text == text.strip() for text in texts)
    assert not any(text.startswith("Ġ") and len(text) > 2 for text in texts)


def fit(method: str, folder, **settings) -> str:
    pictures = np.zeros((4, 8, 8), dtype=np.uint8)
    PromptClassifier(method, settings=settings).fit(pictures, list(NAMES) * 2).save(folder)
    return str(folder)


def test_command(tmp_path, capsys):
    # one epoch is the warm-up at 1e-5, which leaves the words where they started
    folder = fit("coop", tmp_path / "coop", ctx_init="a photo of a", epochs=1)
    tyro.cli(words, args=[folder, "--top", "2"])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│ all")]
    assert [row[3].split()[0] for row in rows] == ["a", "photo", "of", "a"]
    tyro.cli(words, args=[folder, "--top", "2", "--json"])
    tokens = json.loads(capsys.readouterr().out)
    assert [token["by_distance"][0]["word"] for token in tokens] == ["a", "photo", "of", "a"]
    assert {len(token["by_cosine"]) for token in tokens} == {2}


def test_command_without_words(tmp_path):
    folder = fit("zeroshot", tmp_path / "zeroshot")
    with pytest.raises(UserError, match="method 'zeroshot' learns no text context that has words: fit one"):
        tyro.cli(words, args=[folder])
