"""Every shortcut of the encoder against the plain way, float64, same weights."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import plain
import pytest
import torch

from conftest import pad
from support import random_encoder
from vlprompt.engine import attention
from vlprompt.engine.attention import SMALL
from vlprompt.engine.backbones.clip import CLIPBackbone
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.packing import Plan, context_slot
from vlprompt.engine.prompt import Beside, KeyValue, Prompt
from vlprompt.errors import UserError
from vlprompt.methods import get_method

TOLERANCE = {"rtol": 0, "atol": 1e-10}
START, END = 48, 49
NAMES = {
    "different lengths": [(5,), (6, 7, 8, 9, 10), (5, 6)],
    "one class": [(5, 6, 7)],
    "duplicates": [(5, 6), (7,), (5, 6), (5, 6)],
    "common first word": [(5, 6, 7), (5, 6, 8), (5, 6, 7, 9)],
    "one the start of another": [(5,), (5, 6), (5, 6, 7)],
    "77 positions": [tuple(range(2, 46)) + tuple(range(2, 15)), (5,)],
}


def sentences(names, n: int) -> list[tuple[int, ...]]:
    """[start][context n][name][full stop 3][end]."""
    slots = tuple(context_slot(i) for i in range(n))
    return [(START, *slots, *name, 3, END) for name in names]


def tokens(count: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, dtype=torch.float64, generator=generator).requires_grad_()


def compare(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    upstream = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    a = torch.autograd.grad((ours * upstream).sum(), inputs, retain_graph=True)
    b = torch.autograd.grad((theirs * upstream).sum(), inputs)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


@pytest.fixture(params=[SMALL, 0], ids=["with a mask", "suffix by suffix"])
def both(other_clip, monkeypatch, request):
    """Text in small packs as in large ones."""
    monkeypatch.setattr(attention, "SMALL", request.param)
    return Encoder(CLIPBackbone(other_clip, None)), other_clip


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_shared_prefix_and_cut_text(both, names):
    encoder, model = both
    n = 16
    context = tokens(n, 32)
    rows = sentences(names, n)
    assert max(map(len, rows)) <= 77
    ours = encoder.encode_text(rows, Prompt(context))
    compare(ours, plain.text_features(model, pad(rows), context), [context])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_deep_text_prompts(both, names, depth):
    encoder, model = both
    context, deep = tokens(4, 32), [tokens(4, 32, seed=i + 1) for i in range(depth - 1)]
    rows = sentences(names, 4)
    ours = encoder.encode_text(rows, Prompt(context, deep))
    compare(ours, plain.text_features(model, pad(rows), context, deep), [context, *deep])


def test_class_specific_context_shares_only_the_start(both):
    encoder, model = both
    names, n = NAMES["duplicates"], 3
    context = tokens(len(names) * n, 32)
    rows = [
        (START, *(context_slot(k * n + i) for i in range(n)), *name, 3, END) for k, name in enumerate(names)
    ]
    assert Plan.of(rows).pack.prefix == 1
    ours = encoder.encode_text(rows, Prompt(context))
    theirs = plain.text_features(model, pad(rows), context.view(len(names), n, 32))
    compare(ours, theirs, [context])


def test_context_of_its_own_for_every_image(both):
    encoder, model = both
    rows = sentences(NAMES["different lengths"], 4)
    context = torch.stack([tokens(4, 32, seed=i) for i in range(3)])
    ours = encoder.encode_text(rows, Prompt(context))
    theirs = torch.stack([plain.text_features(model, pad(rows), c) for c in context])
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("lengths", [(2, 0), (0, 3), (0, 0)])
def test_key_value_prompts_in_text(both, lengths):
    encoder, model = both
    prompts = [tokens(c, 32, seed=c) for c in lengths]
    rows = sentences(NAMES["common first word"], 0)
    ours = encoder.encode_text(rows, Prompt(keys_values=[KeyValue(p) for p in prompts]))
    candidates = [((p,), None) for p in prompts]
    theirs = plain.text_features(model, pad(rows), candidates=candidates)
    compare(ours, theirs, prompts) if all(lengths) else torch.testing.assert_close(ours, theirs, **TOLERANCE)


def supernet(layers: int, longest: int, width: int):
    """Prompts of every candidate of every layer, and the alphas."""
    prompts = [
        [tokens(c, width, seed=layer * 10 + c) for c in range(1, longest + 1)] for layer in range(layers)
    ]
    alphas = tokens(layers, longest + 1, seed=77)
    weights = alphas.softmax(-1)
    ours = [
        KeyValue(torch.cat(p), w, tuple(range(1, longest + 1))) for p, w in zip(prompts, weights, strict=True)
    ]
    theirs = [([None, *p], w) for p, w in zip(prompts, weights, strict=True)]
    return ours, theirs, [alphas, *(p for layer in prompts for p in layer)]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_search_in_text(both, names):
    encoder, model = both
    ours, theirs, inputs = supernet(2, 6, 32)
    rows = sentences(names, 0)
    compare(
        encoder.encode_text(rows, Prompt(keys_values=ours)),
        plain.text_features(model, pad(rows), candidates=theirs),
        inputs,
    )


def test_search_in_vision(both):
    encoder, model = both
    ours, theirs, inputs = supernet(4, 6, 48)
    pixels = torch.randn(3, 3, 24, 24, dtype=torch.float64)
    compare(
        encoder.encode_image(pixels, Prompt(keys_values=ours)),
        plain.image_features(model, pixels, candidates=theirs),
        inputs,
    )


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_visual_prompts(both, depth):
    encoder, model = both
    pixels = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    context = tokens(5, 48) if depth else None
    deep = [tokens(5, 48, seed=i + 1) for i in range(depth - 1)]
    ours = encoder.encode_image(pixels, Prompt(context, deep))
    theirs = plain.image_features(model, pixels, context, deep)
    compare(ours, theirs, [context, *deep]) if depth else torch.testing.assert_close(
        ours, theirs, **TOLERANCE
    )


def test_the_stock_model_itself(tiny, encoder):
    """Both ways give the features of ``transformers``' own forward pass."""
    rows = [(22, 3, 9, 7, 3, 14, 2, 23), (22, 3, 9, 7, 3, 10, 16, 2, 23)]
    stock = tiny.get_text_features(input_ids=pad(rows)).pooler_output
    stock = stock / stock.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(encoder.encode_text(rows), stock, **TOLERANCE)
    torch.testing.assert_close(plain.text_features(tiny, pad(rows)), stock, **TOLERANCE)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    stock = tiny.get_image_features(pixel_values=pixels).pooler_output
    stock = stock / stock.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(encoder.encode_image(pixels), stock, **TOLERANCE)


def test_a_name_that_is_too_long_is_named():
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained("tests/golden/tiny-clip")
    encoder = Encoder(CLIPBackbone(model, lambda texts: {"input_ids": [[22] * 90 for _ in texts]}))
    with pytest.raises(UserError, match=r"'endless name'.*90 tokens.*77"):
        encoder.tokenize(["endless name"])


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_chunks_with_recomputation(both, names):
    """A budget too small for anything: every class is a chunk of its own, the numbers stay."""
    encoder, model = both
    encoder.memory = 1
    ours, theirs, inputs = supernet(2, 3, 32)
    context = tokens(4, 32)
    rows = sentences(names, 4)
    prompt = Prompt(context, keys_values=ours)
    assert len(encoder._chunks(rows, prompt)) == len(rows)
    compare(
        encoder.encode_text(rows, prompt),
        plain.text_features(model, pad(rows), context, candidates=theirs),
        [context, *inputs],
    )


@pytest.mark.parametrize("lengths", [(4, 1), (2, 5), (3, 0), (0, 2), (0, 0)])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_deep_text_prompts_of_changing_length(both, names, lengths):
    """A layer's tokens take the place of those before, however many they are."""
    encoder, model = both
    first, second = lengths
    context = tokens(first, 32) if first else None
    deep = tokens(second, 32, seed=1)
    rows = sentences(names, first)
    ours = encoder.encode_text(rows, Prompt(context, [deep]))
    x = model.text_model.embeddings.token_embedding(pad(rows))
    if context is not None:
        x = torch.cat([x[:, :1], context.expand(len(rows), -1, -1), x[:, 1 + first :]], 1)
    x = x + model.text_model.embeddings.position_embedding.weight
    for index, block in enumerate(model.text_model.encoder.layers):
        if index == 1:
            x = torch.cat([x[:, :1], deep.expand(len(rows), -1, -1), x[:, 1 + first :]], 1)
        mask = torch.full((x.shape[1],) * 2, -torch.inf, dtype=x.dtype).triu(1)
        x = plain.layer(block, x, None, mask)
    ends = torch.tensor([len(row) - 1 + second - first for row in rows])
    x = model.text_model.final_layer_norm(x[torch.arange(len(rows)), ends])
    theirs = torch.nn.functional.normalize(model.text_projection(x), dim=-1)
    inputs = [t for t in (context, deep) if t is not None and len(t)]
    compare(ours, theirs, inputs) if inputs else torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_images_enter_where_the_prompts_begin(both, first):
    encoder, model = both
    prompts = [tokens(2 if layer >= first else 0, 48, seed=layer) for layer in range(4)]
    prompt = Prompt(keys_values=[KeyValue(p) for p in prompts])
    assert prompt.first == first
    pixels = torch.randn(3, 3, 24, 24, dtype=torch.float64)
    states = encoder.enter_layer(pixels, first)
    assert not states.requires_grad
    ours = encoder.encode_image(pixels, prompt, below={first: states}.__getitem__)
    theirs = plain.image_features(model, pixels, candidates=[((p,), None) for p in prompts])
    compare(ours, theirs, prompts[first:])


def test_text_below_the_prompts_is_run_once(both):
    encoder, model = both
    prompt = Prompt(keys_values=[None, KeyValue(tokens(2, 32))])
    rows = sentences(NAMES["different lengths"], 0)
    runs: list[int] = []
    hook = model.text_model.encoder.layers[0].register_forward_hook(lambda *_: runs.append(1))
    features = [encoder.encode_text(rows, prompt) for _ in range(3)]
    hook.remove()
    assert len(runs) == 1 and features[0].requires_grad
    torch.testing.assert_close(features[2], features[0], **TOLERANCE)


def test_where_a_prompt_begins():
    assert Prompt().empty and Prompt().first > 1000
    assert Prompt(keys_values=[None, KeyValue(tokens(0, 4))]).empty
    assert Prompt(tokens(1, 4), keys_values=[None, KeyValue(tokens(1, 4))]).first == 0
    assert Prompt(deep=[tokens(0, 4), tokens(1, 4)]).first == 2
    assert Prompt(deep=[tokens(0, 4), tokens(1, 4)], keys_values=[None, KeyValue(tokens(1, 4))]).first == 1


def test_frozen_text_is_encoded_once(both):
    encoder, _ = both
    rows = sentences(NAMES["different lengths"], 0)
    first = encoder.encode_text(rows)
    assert encoder.encode_text(list(rows)) is first
    assert not first.requires_grad
    assert encoder.encode_text(rows, normalize=False) is not first


# Gates, and a prompt of its own for each row.


def test_what_is_kept_in_inference_mode_can_be_trained_with(both):
    """Layouts are made once; whoever asks first, a training may need them."""
    encoder, names = both[0], [(21, 22), (23,), (24, 25, 26)]
    rows = sentences(names, 3)
    context = tokens(3, encoder.backbone.text_width).requires_grad_()
    with torch.inference_mode():
        first, frozen = (
            encoder.encode_text(rows, Prompt(context=context)),
            encoder.encode_text(sentences(names, 0)),
        )
    again = encoder.encode_text(rows, Prompt(context=context))
    (again * encoder.encode_text(sentences(names, 0))).sum().backward()
    assert context.grad is not None and (first == again).all() and not frozen.is_inference()


@pytest.mark.parametrize("branch", ["text", "vision"])
def test_a_closed_gate_is_no_token_and_an_open_one_is_the_token(both, branch):
    encoder, _ = both
    every = tokens_of_layers(3, encoder, branch)
    gates = torch.tensor([0.0, -torch.inf, 0.0], dtype=torch.float64)
    gated = Prompt(keys_values=[KeyValue(t, log_gates=gates) for t in every])
    fewer = Prompt(keys_values=[KeyValue(t[[0, 2]]) for t in every])
    compare(encode(encoder, branch, gated), encode(encoder, branch, fewer), every)


@pytest.mark.parametrize("branch", ["text", "vision"])
def test_a_half_open_gate_halves_the_tokens_exponential(both, branch):
    """Two tokens alike, each half open, are one."""
    encoder, _ = both
    every = tokens_of_layers(1, encoder, branch)
    halves = torch.full((2,), 0.5, dtype=torch.float64).log()
    twice = Prompt(keys_values=[KeyValue(t.repeat(2, 1), log_gates=halves) for t in every])
    once = Prompt(keys_values=[KeyValue(t) for t in every])
    compare(encode(encoder, branch, twice), encode(encoder, branch, once), every)


@pytest.mark.parametrize("branch", ["text", "vision"])
def test_rows_with_prompts_of_their_own_are_as_alone(both, branch):
    encoder, _ = both
    every = [t.unflatten(0, (2, 3)) for t in tokens_of_layers(6, encoder, branch)]
    gates = torch.tensor([[0.0, -0.3, -torch.inf], [-0.1, 0.0, 0.0]], dtype=torch.float64)
    together = encode(encoder, branch, Prompt(keys_values=[KeyValue(t, log_gates=gates) for t in every]))
    for row in range(2):
        alone = Prompt(keys_values=[KeyValue(t[row], log_gates=gates[row]) for t in every])
        features = encode(encoder, branch, alone)
        mine = together[row] if branch == "text" else together[row : row + 1]
        torch.testing.assert_close(
            mine, features[: len(mine)] if branch == "text" else features[row : row + 1], **TOLERANCE
        )


def tokens_of_layers(count, encoder, branch):
    """Tokens (count, D) for each layer."""
    width = getattr(encoder.backbone, f"{branch}_width")
    return [tokens(count, width, seed) for seed in range(len(encoder.backbone.text_layers))]


def encode(encoder, branch, prompt):
    """Class features, or features of two images."""
    if branch == "text":
        return encoder.encode_text(sentences(NAMES["different lengths"], 0), prompt)
    side = encoder.backbone.image_size
    pixels = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return encoder.encode_image(pixels, prompt)


# What stands beside layers, and tokens of each sequence's own.


def linear(width: int, seed: int) -> torch.Tensor:
    return tokens(width, width, seed) * 0.1


def test_no_sharing_is_a_matter_of_layout_alone(both):
    encoder, model = both
    for names in NAMES.values():
        rows = sentences(names, 2)
        plan = Plan.of(rows, share=False)
        assert plan.pack.prefix == 0 and len(plan.ids) == sum(map(len, rows))
        context = tokens(2, 32)
        noisy = Prompt(context, beside=[Beside(block=lambda x: 0 * x, noisy=True)])
        ours = encoder.encode_text(rows, noisy)
        compare(ours, plain.text_features(model, pad(rows), context), [context])


@pytest.mark.parametrize("branch", ["text", "vision"])
@pytest.mark.parametrize("parts", [("query",), ("key",), ("value",), ("query", "key", "value")])
def test_maps_beside_projections_are_other_projections(both, branch, parts):
    """Low-rank or not: with them added to its weights, the stock model gives the same."""
    encoder, _ = both
    width = getattr(encoder.backbone, f"{branch}_width")
    layers = getattr(encoder.backbone, f"{branch}_layers")
    weights = {(i, part): linear(width, 10 * i + len(part)) for i in range(len(layers)) for part in parts}
    beside = [
        Beside(**{p: partial(torch.nn.functional.linear, weight=weights[i, p]) for p in parts})
        for i in range(len(layers))
    ]
    keys_values = [KeyValue(tokens(2, width, 5))]  # prompts are projected by the same weights
    ours = encode(encoder, branch, Prompt(beside=beside, keys_values=keys_values))
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    changed = {
        f"{i}.self_attn.{names[p]}.weight": layers[i].self_attn.get_submodule(names[p]).weight + weight
        for (i, p), weight in weights.items()
    }
    with changed_weights(layers, changed):
        theirs = encode(encoder, branch, Prompt(keys_values=keys_values))
    compare(ours, theirs, [*weights.values()])


@contextmanager
def changed_weights(module, weights):
    """The module with these tensors for its parameters, a graph behind them or not."""
    kept = {}
    for name, value in weights.items():
        owner, _, last = name.rpartition(".")
        part = module.get_submodule(owner)
        kept[part, last] = part._parameters.pop(last)
        setattr(part, last, value)
    yield
    for (part, last), value in kept.items():
        delattr(part, last)
        part._parameters[last] = value


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_adapters_beside_blocks_in_text(both, names, first, memory):
    """Shared prefix, cut text, kept states below the first adapter and chunks, against the plain way."""
    encoder, model = both
    encoder.memory = memory
    weights = [linear(32, seed=i) for i in range(first, 2)]
    maps = [None] * first + [Beside(block=lambda x, w=w: (x @ w).relu()) for w in weights]
    rows = sentences(names, 0)
    prompt = Prompt(beside=maps)
    assert prompt.first == first
    ours = encoder.encode_text(rows, prompt)
    compare(ours, plain.text_features(model, pad(rows), beside=maps), weights)


@pytest.mark.parametrize("first", [0, 2])
def test_adapters_beside_blocks_in_vision(both, first):
    encoder, model = both
    weights = [linear(48, seed=i) for i in range(first, 4)]
    maps = [None] * first + [Beside(block=lambda x, w=w: (x @ w).relu()) for w in weights]
    pixels = torch.randn(3, 3, 24, 24, dtype=torch.float64)
    states = {i: encoder.enter_layer(pixels, i) for i in range(4)}
    ours = encoder.encode_image(pixels, Prompt(beside=maps), below=states.__getitem__)
    compare(ours, plain.image_features(model, pixels, beside=maps), weights)


def test_every_sequence_draws_its_own_noise_and_chunks_draw_it_again(both):
    encoder, _ = both
    weight = linear(32, 1)
    drop = Beside(block=lambda x: torch.nn.functional.dropout(x, 0.5) @ weight, noisy=True)
    rows = sentences([(5, 6)] * 3, 0)
    features = encoder.encode_text(rows, Prompt(beside=[drop]))
    assert (features[0] - features[1]).abs().max() > 1e-3
    encoder.memory = 1
    torch.manual_seed(0)
    chunked = encoder.encode_text(rows, Prompt(beside=[drop]))
    (again,) = torch.autograd.grad(chunked[2].sum(), weight)
    encoder.memory = None
    torch.manual_seed(0)
    one_by_one = torch.stack([encoder.encode_text([row], Prompt(beside=[drop]))[0] for row in rows])
    (expected,) = torch.autograd.grad(one_by_one[2].sum(), weight)
    torch.testing.assert_close(chunked, one_by_one, **TOLERANCE)
    torch.testing.assert_close(again, expected, **TOLERANCE)


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("standing", "count", "start"), [(4, 4, 1), (4, 2, 1), (0, 3, 1), (2, 2, 3)])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_tokens_at_a_later_layer_for_each_sequence_or_all(both, names, standing, count, start, own, memory):
    """They replace the context, a part of it, or are inserted where nothing stood."""
    encoder, model = both
    encoder.memory = memory
    n = standing + start - 1
    context = tokens(n, 32) if n else None
    deep = tokens(len(names) * count, 32, seed=1)
    fresh = deep.unflatten(0, (len(names), count)) if own else deep[:count]
    rows = sentences(names, n)
    ours = encoder.encode_text(rows, Prompt(context, [fresh], place=(start, standing)))
    x = model.text_model.embeddings.token_embedding(pad(rows))
    if context is not None:
        x = torch.cat([x[:, :1], context.expand(len(rows), -1, -1), x[:, 1 + n :]], 1)
    x = x + model.text_model.embeddings.position_embedding.weight
    first, second = model.text_model.encoder.layers
    mask = torch.full((100, 100), -torch.inf, dtype=x.dtype).triu(1)
    x = plain.layer(first, x, None, mask[:77, :77])
    x = torch.cat([x[:, :start], fresh.expand(len(rows), -1, -1), x[:, start + standing :]], 1)
    x = plain.layer(second, x, None, mask[: x.shape[1], : x.shape[1]])
    ends = torch.tensor([len(row) - 1 + count - standing for row in rows])
    x = model.text_model.final_layer_norm(x[torch.arange(len(rows)), ends])
    theirs = torch.nn.functional.normalize(model.text_projection(x), dim=-1)
    compare(ours, theirs, [deep] if context is None else [context, deep])


def test_prompt_tokens_of_images_can_be_read(both):
    encoder, model = both
    pixels = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    deep = [None, tokens(3, 48, 1), tokens(3, 48, 2)]
    prompt = Prompt(deep=deep)
    states = encoder.image_states(pixels, prompt, tokens=3)
    x = model.vision_model.pre_layrnorm(model.vision_model.embeddings(pixels))
    for index, block in enumerate(model.vision_model.encoder.layers):
        if index >= 2:
            x = torch.cat([x[:, :10], deep[index - 1].expand(2, -1, -1)], 1)
        x = plain.layer(block, x, None, None)
    ours = encoder.encode_image(pixels, prompt, normalize=False)
    torch.testing.assert_close(ours, encoder.backbone.finish_vision(x), **TOLERANCE)
    compare(states, x[:, [0, 10, 11, 12]], deep[1:])


@pytest.mark.parametrize("name", ["tcp", "mma", "clip_lora", "mmrl", "coprompt"])
def test_a_method_s_class_features_are_those_of_the_plain_way(name):
    """What the speed is measured against, with real sequences: packed, cut, and in chunks."""
    torch.manual_seed(1)
    encoder, kind = random_encoder(), get_method(name)
    method = kind(encoder, ("cat", "school bus", "a very small red car", "cat"), kind.Settings()).double()
    method.eval()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    prompt, model = method.text_prompt(), encoder.backbone.model
    parts = {part: getattr(prompt, part) for part in ("context", "deep", "beside")}
    ids = pad(method.sequences)
    theirs = plain.text_features(model, ids, **parts)
    for memory in (None, 1):
        encoder.memory = memory
        ours = encoder.encode_text(method.sequences, method.text_prompt())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_an_encoder_may_be_shared_by_threads(both):
    """The app's visitors do; without care one takes away what another is just about to read."""
    encoder, before = both[0], sys.getswitchinterval()

    def ask(start: int) -> list[float]:
        return [float(encoder._constant(lambda n=n: torch.tensor(float(n)), n)) for n in numbers(start)]

    def numbers(start: int) -> list[int]:
        return [(start + step) % 11 for step in range(2000)]

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(ask, range(8)))
    finally:
        sys.setswitchinterval(before)
    assert found == [list(map(float, numbers(start))) for start in range(8)]
