"""The attention function against plain attention, in float64."""

import pytest
import torch

from vlprompt.engine.attention import (
    AttentionPrompt,
    Pack,
    Shared,
    attend,
    attend_packed,
    mix,
    prompt_attention,
)

H, D = 3, 8


def qkv(length: int, rows: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(length)
    return [torch.randn(rows, H, length, D, dtype=torch.float64) for _ in range(3)]


def softmax_attention(q, k, v, mask=None):
    scores = q @ k.mT * D**-0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v


@pytest.mark.parametrize("lengths", [(1, 2, 3, 4, 5, 6), (4,), (2, 2, 7)])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_mixture_in_one_pass_equals_the_sum_of_attentions(lengths, scale):
    q, k, v = qkv(11)
    q = (q * scale).requires_grad_()
    keys = [torch.randn(H, c, D, dtype=torch.float64, requires_grad=True) for c in lengths]
    values = [torch.randn(H, c, D, dtype=torch.float64, requires_grad=True) for c in lengths]
    alpha = torch.randn(len(lengths) + 1, dtype=torch.float64, requires_grad=True)
    weights = alpha.softmax(-1)
    plain = weights[0] * softmax_attention(q, k, v)
    for weight, key, value in zip(weights[1:], keys, values, strict=True):
        both_k = torch.cat([key.expand(2, -1, -1, -1), k], 2)
        both_v = torch.cat([value.expand(2, -1, -1, -1), v], 2)
        plain = plain + weight * softmax_attention(q, both_k, both_v)
    prompt = AttentionPrompt(None, torch.cat(keys, 1), torch.cat(values, 1), lengths, weights)
    ours = mix(*attend(q, k, v, D**-0.5), q, prompt, D**-0.5)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    inputs = [alpha, q, *keys, *values]
    upstream = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad((ours * upstream).sum(), inputs, retain_graph=True),
        torch.autograd.grad((plain * upstream).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_mixture_of_extreme_scores_stays_finite():
    q, k, v = (x.float() for x in qkv(5))
    key, value = torch.randn(H, 3, D), torch.randn(H, 3, D)
    for factor in (1e-3, 1e3, -1e3):
        prompt = AttentionPrompt(None, key * factor, value, (1, 2), torch.tensor([0.2, 0.3, 0.5]))
        assert mix(*attend(q * 50, k, v, 1.0), q * 50, prompt, 1.0).isfinite().all()


@pytest.mark.parametrize("pack", [Pack(4, ((2, 1), (3, 2), (1, 5))), Pack(0, ((2, 3),)), Pack(6, ((1, 1),))])
@pytest.mark.parametrize("shared", [0, 3])
def test_packed_attention_equals_attention_with_a_mask(pack, shared):
    sizes = [length for count, length in pack.groups for _ in range(count)]
    total = pack.prefix + sum(sizes)
    q, k, v = qkv(total)
    extra = [torch.randn(2, H, shared, D, dtype=torch.float64) for _ in range(2)]
    owner = torch.tensor([0] * pack.prefix + [i + 1 for i, n in enumerate(sizes) for _ in range(n)])
    at = torch.arange(total)
    seen = (at[None] <= at[:, None]) & ((owner[None] == owner[:, None]) | (owner[None] == 0))
    mask = torch.cat([torch.ones(total, shared, dtype=torch.bool), seen], 1)
    both_k, both_v = torch.cat([extra[0], k], 2), torch.cat([extra[1], v], 2)
    plain = softmax_attention(q, both_k, both_v, mask)
    ours, lse = attend_packed(q, k, v, pack, Shared(extra[0], extra[1]), D**-0.5)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    scores = (q @ both_k.mT * D**-0.5).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(lse, scores.logsumexp(-1), rtol=0, atol=1e-12)
    ends = [pack.prefix + sum(sizes[: i + 1]) - 1 for i in range(len(sizes))]
    assert pack.ends == ends
    read, read_lse = attend_packed(q[:, :, ends], k, v, pack, Shared(extra[0], extra[1]), D**-0.5)
    torch.testing.assert_close(read, plain[:, :, ends], rtol=0, atol=1e-12)
    torch.testing.assert_close(read_lse, lse[:, :, ends], rtol=0, atol=1e-12)


def test_function_without_a_prompt_is_the_models_own_attention():
    q, k, v = qkv(7)
    module = torch.nn.Module()
    module.is_causal = False
    ours, _ = prompt_attention(module, q, k, v, None, scaling=D**-0.5)
    torch.testing.assert_close(ours, softmax_attention(q, k, v).transpose(1, 2), rtol=0, atol=1e-12)
