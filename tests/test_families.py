"""Other families than CLIP, with random weights in float64: the stock model, and methods computed plainly."""

from __future__ import annotations

from pathlib import Path

import plain
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from support import agree
from vlprompt import PromptClassifier, UserError, data
from vlprompt.engine.backbones.load import BUILT_IN, load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch
from vlprompt.methods.registry import all_methods

NAMES = ("cat", "a school bus", "sunflower")
CLOSE = {"rtol": 0, "atol": 1e-10}
PAD, LENGTH = 1, 48


def letters() -> PreTrainedTokenizerFast:
    """A token for every byte, as SigLIP's no start and an end token that is also the padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "</s>": PAD} | {letter: i + 2 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", PAD)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


def branches(vocabulary: int) -> dict[str, dict[str, int]]:
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    return {
        "text_config": shared | {"num_hidden_layers": 2, "vocab_size": vocabulary},
        "vision_config": shared | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
    }


def write_siglip(folder: Path) -> Path:
    torch.manual_seed(6)
    tokenizer = letters()
    parts = branches(len(tokenizer))
    parts["text_config"] |= {"max_position_embeddings": LENGTH, "pad_token_id": PAD, "eos_token_id": PAD}
    parts["text_config"] |= {"projection_size": 32, "bos_token_id": None}
    model = SiglipModel(SiglipConfig(**parts))
    with torch.no_grad():  # nothing of it is left at zero or one
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_metaclip_2(folder: Path) -> Path:
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(BUILT_IN["toy"])
    parts = branches(len(tokenizer))
    parts["text_config"] |= {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    MetaClip2Model(MetaClip2Config(**parts, projection_dim=24)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


WRITERS = {"siglip": (write_siglip, SiglipModel), "metaclip_2": (write_metaclip_2, MetaClip2Model)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: write(root / family) for family, (write, _) in WRITERS.items()}


@pytest.fixture
def siglip(folders):
    return Encoder(load_backbone(str(folders["siglip"]), dtype=torch.float64))


@pytest.fixture
def pixels():
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", WRITERS)
def test_zero_shot_is_the_stock_model_s(family, folders, pixels):
    folder, stock_class = folders[family], WRITERS[family][1]
    encoder = Encoder(load_backbone(str(folder), dtype=torch.float64))
    stock = stock_class.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = encoder.backbone.max_positions
    ids = tokenizer(list(NAMES), padding="max_length", max_length=length, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        texts = F.normalize(stock.get_text_features(input_ids=ids).pooler_output, dim=-1)
        images = F.normalize(stock.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        logits = stock(input_ids=ids, pixel_values=pixels).logits_per_image
        method = get_method("zeroshot")(encoder, NAMES, templates=("{}",)).eval()
        torch.testing.assert_close(encoder.encode_text(encoder.tokenize(NAMES)), texts, **CLOSE)
        torch.testing.assert_close(encoder.encode_image(pixels), images, **CLOSE)
        torch.testing.assert_close(method(pixels).softmax(-1), logits.softmax(-1), **CLOSE)


# SigLIP, plainly: all positions, no shared prefix, the pooling head over the patches.


def text(model, rows, context=None, deep=(), candidates=None):
    """Class features of rows whose context slots are the first positions; none is cut, all see all."""
    ids = torch.tensor([[max(i, 0) for i in row] + [PAD] * (LENGTH - len(row)) for row in rows])
    return plain.siglip_text_features(model, ids, context, [d.double() for d in deep], candidates)


def vision(model, pixels, context=None, deep=(), candidates=None):
    branch = model.vision_model
    x = branch.embeddings(pixels)
    patches = x.shape[1]
    if context is not None:
        x = torch.cat([x, context.double().expand(len(x), -1, -1)], 1)
    x = plain.run(branch.encoder.layers, x, [d.double() for d in deep], patches, candidates, None)
    return F.normalize(branch.head(branch.post_layernorm(x)[:, :patches]), dim=-1)


def made(name, encoder, **settings):
    """A method in float64, with templates that fit the positions."""
    kind = get_method(name)
    torch.manual_seed(1)
    return kind(encoder, NAMES, kind.Settings(**settings), ("{}.",)).double()


@pytest.mark.parametrize("memory", [1 << 40, 1], ids=["together", "in chunks"])
def test_coop(siglip, memory):
    siglip.memory = memory
    method = made("coop", siglip, n_ctx=4)
    theirs = text(siglip.backbone.model, method.sequences, method.ctx)
    agree(method.class_features(), theirs, [method.ctx])


def test_cocoop(siglip, pixels):
    method = made("cocoop", siglip, n_ctx=4, ctx_init="")
    features = vision(siglip.backbone.model, pixels)
    contexts = method.ctx + method.meta_net(features)[:, None]  # (B, n, D)
    each = [text(siglip.backbone.model, method.sequences, context) for context in contexts]
    theirs = torch.stack([f @ classes.mT for f, classes in zip(features, each, strict=True)])
    agree(method(pixels), siglip.logit_scale * theirs, list(method.parameters()))


def test_ivlp(siglip, pixels):
    method = made("ivlp", siglip, n_ctx=2, depth=3, ctx_init="ab")
    model = siglip.backbone.model
    theirs = text(model, method.sequences, method.ctx, method.text_deep)
    agree(method.class_features(), theirs, [method.ctx, *method.text_deep])
    theirs = vision(model, pixels, method.vision_ctx, method.vision_deep)
    agree(method.image_features(pixels), theirs, [method.vision_ctx, *method.vision_deep])


def test_dpl_train(siglip, pixels):
    method = made("dpl", siglip, text_lengths=(2, 1), vision_lengths=(0, 3, 2), text="custom", ctx_init="ab")
    model = siglip.backbone.model
    candidates = [((p,), None) for p in method.text_prompts]
    agree(
        method.class_features(),
        text(model, method.sequences, candidates=candidates),
        list(method.text_prompts),
    )
    candidates = [((p,), None) for p in method.vision_prompts]
    learned = [p for p in method.vision_prompts if len(p)]
    agree(method.image_features(pixels), vision(model, pixels, candidates=candidates), learned)


def test_dpl_search(siglip, pixels):
    settings = get_method("dpl").presets["paper"] | {"text_max": 3, "vision_max": 2}
    dpl = made("dpl", siglip, **settings)
    method = dpl.stages()[0].method.double()
    model = siglip.backbone.model

    def candidates(prompts, alphas):
        lengths = range(1, alphas.shape[1])
        each = [[None, *p.split(list(lengths))] for p in prompts]
        return list(zip(each, alphas.softmax(-1), strict=True))

    mixture = candidates(method.text_prompts, method.text_alphas)
    learned = [*method.text_prompts, method.text_alphas]
    agree(method.class_features(), text(model, method.sequences, candidates=mixture), learned)
    mixture = candidates(method.vision_prompts, method.vision_alphas)
    learned = [*method.vision_prompts, method.vision_alphas]
    agree(method.image_features(pixels), vision(model, pixels, candidates=mixture), learned)


def test_mmrl(siglip, pixels):
    method = made("mmrl", siglip, start=2, n_tokens=3, width=8)
    branch = siglip.backbone.model.vision_model
    x = branch.embeddings(pixels)
    patches = x.shape[1]
    for index, block in enumerate(branch.encoder.layers):
        if index >= method.first:
            tokens = method.to_vision[index - method.first](method.tokens)
            x = torch.cat([x[:, :patches], tokens.expand(len(x), -1, -1)], 1)
        x = plain.layer(block, x, None, None)
    x = branch.post_layernorm(x)
    theirs = torch.stack([branch.head(x[:, :patches]), x[:, patches:].mean(1) @ method.projection], 1)
    learned = [method.tokens, method.projection, *method.to_vision.parameters()]
    agree(method.image_features(pixels), F.normalize(theirs, dim=-1), learned)


EVERY = [(name, "siglip") for name in all_methods()]
SOME = [(name, "metaclip_2") for name in ("coop", "maple", "vpt", "promptsrc", "tip", "dpl")]


@pytest.mark.parametrize(("name", "family"), EVERY + SOME)
def test_methods_train_and_are_kept(name, family, folders, tmp_path):
    known = get_method(name).Settings.__dataclass_fields__
    small = {"epochs": 1, "batch_size": 4, "search_epochs": 1, "ctx_init": "", "n_ctx": 2}
    settings = {key: value for key, value in small.items() if key in known}
    task = data.few_shot(data.load("toy:shapes"), 4, 1)
    images, names = zip(*[(i.image, f"c{i.label}") for i in task.train if i.label < 3], strict=True)
    how = {"templates": ("a {}",), "device": "cpu"}
    if "teacher" in known:
        settings["teacher"] = str(tmp_path / "teacher")
        teacher = PromptClassifier("zeroshot", str(folders[family]), **how).fit(list(images), list(names))
        teacher.save(settings["teacher"])
    classifier = PromptClassifier(name, str(folders[family]), settings, **how)
    classifier.fit(list(images), list(names)).save(tmp_path / "kept")
    again = PromptClassifier.load(tmp_path / "kept", device="cpu")
    assert (again.predict_proba(images) == classifier.predict_proba(images)).all()


def test_what_has_no_class_token_is_not_explained(folders):
    task = data.few_shot(data.load("toy:shapes"), 1, 1)
    classifier = PromptClassifier("zeroshot", str(folders["siglip"]), templates=("{}",), device="cpu")
    classifier.fit([i.image for i in task.train[:2]], ["a", "b"])
    with pytest.raises(
        UserError, match=r"follows the class token, which '.*siglip' does not have: use a CLIP"
    ):
        classifier.explain(task.test[0].image)


def test_a_batch_s_loss_moves_the_context(siglip, pixels):
    method = made("coop", siglip, n_ctx=2)
    method.loss(Batch(pixels, torch.tensor([0, 1, 2, 0])))["loss"].backward()
    assert method.ctx.grad.abs().max() > 0
