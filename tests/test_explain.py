"""Explanations against the same mathematics written another way."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from vlprompt import UserError
from vlprompt.data.transforms import EvalTransform
from vlprompt.engine.attention import record_attention
from vlprompt.engine.backbones.load import BUILT_IN, load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.insight.explain import explain, patch_relevance, seen_box
from vlprompt.methods import get_method

NAMES = ("red circle", "blue square", "green star")
LENGTHS = {"text_lengths": (2, 0, 1, 3), "vision_lengths": (1, 0, 2, 3)}
METHODS = {
    "zeroshot": {},
    "coop": {"n_ctx": 2},
    "cocoop": {},
    "vpt": {"n_ctx": 3, "depth": 3},
    "maple": {"depth": 2},
    "ivlp": {"text_lengths": (2, 1, 2, 1), "vision_lengths": (3, 1, 2, 0)},
    "dpl": LENGTHS,
    "tip": {},
    "mma": {"start": 2, "scale": 0.1},
    "coprompt": {"depth": 2},
}


@pytest.fixture(scope="module")
def toy() -> Encoder:
    return Encoder(load_backbone("toy"))


def build(encoder: Encoder, name: str):
    torch.manual_seed(1)
    kind = get_method(name)
    method = kind(encoder, NAMES, kind.Settings(**METHODS[name])).eval()
    with torch.no_grad():  # far from the small values of the start, so that the prompts matter
        for parameter in method.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter))
    return method


def picture(size: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def pixels_of(encoder: Encoder, image: np.ndarray) -> torch.Tensor:
    return EvalTransform(encoder.backbone.processor)([image])


def reference(method, pixels: torch.Tensor, chosen: int) -> torch.Tensor:
    """Relevance of the patches from the model's own projections.

    Probabilities come from hooks on the projections, their gradients from ``dA = dO V^T`` for the
    heads' output O, and the roll-out is a product of square matrices over all positions.
    """
    layers = method.encoder.backbone.vision_layers
    prompt = method.vision_prompt()
    seen: list[dict[str, torch.Tensor]] = [{} for _ in layers]
    hooks = []
    for record, layer in zip(seen, layers, strict=True):
        attn = layer.self_attn
        heads = (attn.num_heads, attn.head_dim)
        for name in ("q", "k", "v"):

            def keep(module, args, output, name=name, record=record, heads=heads):
                if output.ndim == 3:  # not the projections of a prompt alone
                    record[name] = output.detach()[0].unflatten(-1, heads).transpose(0, 1)

            hooks.append(getattr(attn, f"{name}_proj").register_forward_hook(keep))
        hooks.append(attn.out_proj.register_forward_pre_hook(lambda m, args, r=record: r.update(out=args[0])))
    logits = method(pixels.clone().requires_grad_())[0]
    gradients = torch.autograd.grad(logits[chosen], [record["out"] for record in seen])
    for hook in hooks:
        hook.remove()

    total, count = None, 1 + method.encoder.backbone.model.vision_model.embeddings.num_patches
    for index, (record, gradient, layer) in enumerate(zip(seen, gradients, layers, strict=True)):
        key, value = record["k"], record["v"]
        tokens = prompt.keys_values[index].tokens if prompt and prompt.keys_values else []
        if len(tokens):
            extra = method.encoder.backbone.keys_values(layer, tokens)
            key, value = torch.cat([extra[0], key], 1), torch.cat([extra[1], value], 1)
        scores = record["q"] @ key.mT / layer.self_attn.head_dim**0.5
        gradient = gradient[0].unflatten(-1, (-1, layer.self_attn.head_dim)).transpose(0, 1)  # (h, T, d)
        step = (scores.softmax(-1) * (gradient @ value.mT)).relu().mean(0)[:, len(tokens) :]  # (T, T)
        read = len(step)  # in the last layer the class token alone; nothing else has a gradient there
        step = torch.nn.functional.pad(step, (0, 0, 0, step.shape[1] - read))
        image_only = torch.eye(len(step), len(step) if total is None else len(total))
        if index == 0 or (prompt and index <= len(prompt.deep)):
            image_only[count:] = 0  # fresh prompt tokens carry nothing of the image
        step = (torch.eye(len(step)) + step) @ image_only
        total = step if total is None else step @ total
    return total.detach()[0, 1:count]


@pytest.mark.parametrize("name", METHODS)
def test_relevance_with_every_kind_of_prompt(toy, name):
    method, pixels = build(toy, name), pixels_of(toy, picture())
    for chosen in (0, 2):
        relevance, probabilities = patch_relevance(method, pixels, chosen)
        torch.testing.assert_close(relevance, reference(method, pixels, chosen), rtol=1e-3, atol=1e-6)
        with torch.no_grad():
            expected = method.predictor()(pixels)[0].softmax(-1)
        torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_without_prompts_it_is_the_roll_out_of_the_stock_model(toy):
    """The stock model, its own attention and its own output_attentions; nothing of ours."""
    method, pixels = build(toy, "zeroshot"), pixels_of(toy, picture())
    stock = CLIPModel.from_pretrained(
        BUILT_IN["toy"], attn_implementation="eager", dtype=torch.float32
    ).eval()
    texts = toy.backbone.tokenizer([f"a photo of a {n}." for n in NAMES], padding=True, return_tensors="pt")
    output = stock(**texts, pixel_values=pixels.clone().requires_grad_(), output_attentions=True)
    attentions = output.vision_model_output.attentions
    for chosen in range(len(NAMES)):
        gradients = torch.autograd.grad(output.logits_per_image[0, chosen], attentions, retain_graph=True)
        total = torch.eye(attentions[0].shape[-1])
        for attention, gradient in zip(attentions, gradients, strict=True):
            total = total + (attention * gradient)[0].clamp(min=0).mean(0) @ total
        relevance, probabilities = patch_relevance(method, pixels, chosen)
        torch.testing.assert_close(relevance, total[0, 1:].detach(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(probabilities, output.logits_per_image[0].softmax(-1).detach())


def prompt_tokens(method, layer: int) -> int:
    """How many tokens stand after the patches in a layer."""
    prompt = method.vision_prompt()
    if prompt is None or prompt.context is None:
        return 0
    return len(([prompt.context, *prompt.deep])[min(layer, len(prompt.deep))])


@pytest.mark.parametrize("name", METHODS)
def test_recorded_attention_is_the_attention(toy, name):
    method, pixels = build(toy, name), pixels_of(toy, picture())
    vision = toy.backbone.model.vision_model
    with torch.no_grad():
        expected = toy.encode_image(pixels, method.vision_prompt())
        with record_attention() as attentions:
            features = toy.encode_image(pixels, method.vision_prompt())
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-6)
        again = toy.encode_image(pixels, method.vision_prompt())
    assert len(attentions) == len(toy.backbone.vision_layers), "the record goes on after its end"
    assert torch.equal(again, expected), "the record changed what follows"
    for index, attention in enumerate(attentions):
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:3]))
        extra = LENGTHS["vision_lengths"][index] if name == "dpl" else 0
        patches = vision.embeddings.num_patches + prompt_tokens(method, index)
        last = index == len(attentions) - 1  # there only the class token asks
        assert attention.shape[-2:] == (1 if last else 1 + patches, 1 + patches + extra)


def test_an_error_ends_the_record(toy):
    pixels = pixels_of(toy, picture())
    expected = toy.encode_image(pixels)
    with pytest.raises(ZeroDivisionError), record_attention() as attentions:
        raise ZeroDivisionError
    assert torch.equal(toy.encode_image(pixels), expected) and attentions == []


def test_another_thread_is_not_recorded(toy):
    pixels = pixels_of(toy, picture())
    expected, found = toy.encode_image(pixels), []
    with record_attention() as attentions:
        thread = threading.Thread(target=lambda: found.append(toy.encode_image(pixels)))
        thread.start()
        thread.join()
    assert attentions == []
    assert torch.equal(found[0], expected), "a model that others use was changed"


def test_no_gradient_stays(toy):
    method = build(toy, "maple")
    explain(method, picture())
    assert all(parameter.grad is None for parameter in method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_explanation(toy, name):
    method, image = build(toy, name), picture((40, 60))
    explanation = explain(method, image, "blue square")
    assert explanation.class_name == "blue square"
    assert explanation.heat.shape == (40, 60)
    assert explanation.heat.min() == 0
    assert 0.5 < explanation.heat.max() <= 1
    assert not explanation.heat[:, :10].any() and not explanation.heat[:, 50:].any(), "cut off, never seen"
    with torch.no_grad():
        probabilities = method.predictor()(pixels_of(toy, image))[0].softmax(-1)
    assert explanation.probability == pytest.approx(float(probabilities[1]), abs=1e-5)
    assert explain(method, image).class_name == NAMES[int(probabilities.argmax())]
    words = {"coop": 2, "cocoop": 4, "maple": 2, "ivlp": 2, "coprompt": 2}
    assert len(explanation.words) == words.get(name, 0)


def test_words_are_those_of_the_explained_class(toy):
    kind = get_method("coop")
    method = kind(toy, NAMES, kind.Settings(n_ctx=1, class_specific=True))
    ids = [toy.tokenize([word])[0][1] for word in ("photo", "red", "circle")]
    method.ctx.data = toy.embed(ids)
    assert [explain(method, picture(), name).words for name in NAMES] == [("photo",), ("red",), ("circle",)]


def test_overlay(toy):
    explanation = explain(build(toy, "zeroshot"), picture())
    plain, heated = (np.asarray(explanation.overlay(strength)) for strength in (0, 1))
    np.testing.assert_array_equal(plain, picture())
    hot = np.unravel_index(explanation.heat.argmax(), explanation.heat.shape)
    assert np.abs(heated.astype(int) - picture()).sum(-1)[hot] > 0
    np.testing.assert_array_equal(heated[explanation.heat == 0], picture()[explanation.heat == 0])


def test_unknown_class(toy):
    with pytest.raises(
        UserError, match="class 'zebra' is none of the classifier's 3: give one of red circle"
    ):
        explain(build(toy, "zeroshot"), picture(), "zebra")


def test_a_method_that_encodes_an_image_twice(toy):
    class Twice(get_method("zeroshot")):
        def image_features(self, images):
            return super().image_features(images) + self.encoder.encode_image(images)

    with pytest.raises(UserError, match="runs 8 vision layers for an image and the backbone has 4"):
        explain(Twice(toy, NAMES), picture())


class Processor:
    """The part of a processor that says what it cuts off."""

    def __init__(self, size: dict, crop: int = 0):
        self.size, self.do_center_crop, self.crop_size = size, bool(crop), {"width": crop, "height": crop}


@pytest.mark.parametrize(
    ("processor", "box"),
    [
        (Processor({"shortest_edge": 32}, 32), (50, 0, 150, 100)),
        (Processor({"shortest_edge": 32}, 24), (62, 12, 137, 87)),
        (Processor({"height": 32, "width": 32}), (0, 0, 200, 100)),
        (Processor({"height": 32, "width": 32}, 16), (50, 25, 150, 75)),
    ],
    ids=["shorter edge", "smaller crop", "no crop", "crop of a square"],
)
def test_seen_box(processor, box):
    assert seen_box(processor, 200, 100) == box


@pytest.mark.parametrize("size", [(90, 50), (50, 90), (64, 64)])
def test_nothing_is_seen_outside_the_box(toy, size):
    image = picture(size)
    left, top, right, bottom = seen_box(toy.backbone.processor, size[1], size[0])
    outside = np.ones(size, dtype=bool)
    outside[max(top - 4, 0) : bottom + 4, max(left - 4, 0) : right + 4] = False  # bicubic reaches a bit over
    other = np.where(outside[..., None], 255 - image, image).astype(np.uint8)
    before = pixels_of(toy, image)
    assert torch.equal(pixels_of(toy, other), before)
    inner = image.copy()
    inner[top : top + 3, left : left + 3] ^= 255
    assert not torch.equal(pixels_of(toy, inner)[..., :2, :2], before[..., :2, :2])
    assert isinstance(explain(build(toy, "zeroshot"), Image.fromarray(image)).overlay(), Image.Image)


@pytest.mark.parametrize(
    ("name", "settings"), [("mmrl", {"start": 3}), ("clip_lora", {}), ("promptkd", {"depth": 2})]
)
def test_what_else_stands_in_the_vision_branch(toy, name, settings):
    """Tokens inserted and read, other projections, another space: patches still have their share."""
    torch.manual_seed(1)
    kind = get_method(name)
    method = kind(toy, NAMES, kind.Settings(**settings)).eval()
    if name == "promptkd":
        method.taught_by(torch.nn.functional.normalize(torch.randn(3, 20), dim=-1))
        method.eval()
    pixels = pixels_of(toy, picture())
    relevance, probabilities = patch_relevance(method, pixels, 1)
    assert relevance.shape == (toy.backbone.patches,) and relevance.max() > 0
    with torch.no_grad():
        expected = method(pixels)[0].softmax(-1)
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-6)
