"""Loading a frozen backbone: what is accepted, what is refused, and that it is the stock model."""

import json
import os
import unicodedata

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from conftest import GOLDEN
from support import write_clip
from vlprompt.data.transforms import EvalTransform
from vlprompt.engine.backbones.load import BUILT_IN, load_backbone
from vlprompt.engine.devices import pick_device
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip")


def refused(name, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_backbone(str(name))
    assert "\n" not in str(error.value)


# What is accepted.


@pytest.mark.parametrize("which", ["toy", "folder"])
def test_its_features_are_those_of_the_stock_model(which, clip):
    name, folder = ("toy", BUILT_IN["toy"]) if which == "toy" else (str(clip), clip)
    loaded = load_backbone(name)
    encoder = Encoder(loaded)
    stock = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["a photo of a red star.", "zwölf 日本 😀"]
    with torch.no_grad():
        for text in texts:
            ids = tokenizer([text], return_tensors="pt")["input_ids"]
            theirs = F.normalize(stock.get_text_features(input_ids=ids).pooler_output, dim=-1)
            torch.testing.assert_close(encoder.encode_text(encoder.tokenize([text])), theirs, **CLOSE)
        photo = Image.effect_noise((50, 40), 90).convert("RGB")
        pixels = EvalTransform(loaded.processor)([photo])
        assert pixels.shape == (1, 3, loaded.image_size, loaded.image_size)
        theirs = loaded.processor(images=[photo], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, theirs, rtol=0, atol=0)
        theirs = F.normalize(stock.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        torch.testing.assert_close(encoder.encode_image(pixels), theirs, **CLOSE)


def test_it_is_frozen_and_in_float32(clip):
    loaded = load_backbone(str(clip))
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.dtype == torch.float32 and load_backbone("toy").dtype == torch.float32
    assert load_backbone("toy", dtype=torch.float64).dtype == torch.float64


def test_a_backbone_is_its_weights(clip, tmp_path):
    before = load_backbone(str(clip)).digest
    assert before and before == load_backbone(str(clip)).digest
    config = json.loads((clip / "config.json").read_text())
    (clip / "config.json").write_text(json.dumps(config, indent=7, sort_keys=True))
    (clip / "README.md").write_text("other words")
    assert load_backbone(str(clip)).digest == before
    copy = write_clip(tmp_path / "pickled", safe=False)
    assert load_backbone(str(copy)).digest == load_backbone(str(copy)).digest == before
    weights = load_file(clip / "model.safetensors")
    weights["logit_scale"] += 1e-3
    save_file(weights, clip / "model.safetensors", {"format": "pt"})
    assert load_backbone(str(clip)).digest != before


def test_a_folder_below_home_and_one_called_toy(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_backbone("~/clip").joint_width == 24
    monkeypatch.chdir(tmp_path)
    clip.rename(tmp_path / "toy")
    assert load_backbone("toy").joint_width != 24  # the built-in one
    assert load_backbone("./toy").joint_width == 24


# What is refused.


@pytest.mark.parametrize("name", ["/no/such/folder", "clip-of-mine", "a/b/c", "pyproject.toml"])
def test_neither_a_folder_nor_a_hub_id(name):
    refused(name, f"model '{name}' is neither a folder nor a hub id .*or the built-in 'toy'")


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch16", "no such/id"])
def test_without_a_network_both_ways_out_are_named(name):
    refused(name, f"model '{name}' is not in the cache .*give a local folder, or use the built-in 'toy'")


def test_a_folder_without_weights(clip):
    (clip / "model.safetensors").unlink()
    refused(clip, "clip' has no weights: it needs model.safetensors or pytorch_model.bin")


@pytest.mark.parametrize("keep", [0, 5000, -500])
def test_truncated_weights(keep, clip):
    content = (clip / "model.safetensors").read_bytes()
    (clip / "model.safetensors").write_bytes(content[:keep])
    refused(clip, "its weights file is damaged")


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_are_not_all_there_are_not_made_up(change, clip):
    weights = load_file(clip / "model.safetensors")
    if change == "missing":
        del weights["text_projection.weight"]
    else:
        weights["text_projection.weight"] = weights["text_projection.weight"][:5].contiguous()
    save_file(weights, clip / "model.safetensors", {"format": "pt"})
    refused(clip, r"its weights lack 'text_projection\.weight'")


def test_a_folder_without_tokenizer(clip):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (clip / name).unlink()
    refused(clip, "clip' has no tokenizer")


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_damaged_companions(name, clip):
    (clip / name).write_text("{")
    refused(clip, "clip' cannot be loaded: ")


def test_a_folder_without_image_processor(clip):
    (clip / "preprocessor_config.json").unlink()
    refused(clip, r"clip' cannot be loaded: .*preprocessor_config\.json")


def test_configurations_of_other_models(clip, tmp_path):
    refused(tmp_path, "has no config.json: give a folder saved by transformers")
    for content in ("{", "{}", '{"model_type": "of tomorrow"}'):
        (clip / "config.json").write_text(content)
        refused(clip, "clip': config.json cannot be read")
    (clip / "config.json").write_text('{"model_type": "resnet"}')
    refused(
        clip, "is of type 'resnet', of which no layer is known that takes prompts: give one of type bert, "
    )


@pytest.mark.parametrize("name", ["tpu9", "", "cuda:99", "meta"])
def test_devices_that_are_not_there(name):
    with pytest.raises(UserError, match=f"device '{name}' is not there"):
        pick_device(name)
    assert pick_device("cpu").type == "cpu" and pick_device("auto")


# Tokens.


@pytest.mark.skipif(
    "VLPROMPT_CLIP_TOKENIZER" not in os.environ,
    reason="set VLPROMPT_CLIP_TOKENIZER to a folder with CLIP's vocabulary",
)
def test_token_ids_are_those_of_clip():
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(os.environ["VLPROMPT_CLIP_TOKENIZER"])
    golden = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))
    cleaned = {text for text in golden if "&" in text or unicodedata.normalize("NFKC", text) != text}
    assert len(golden) - len(cleaned) > 200
    for text, ids in golden.items():
        if text not in cleaned:  # CLIP's own tokenizer cleans full-width letters and HTML entities
            assert tokenizer([text])["input_ids"] == [ids], text
