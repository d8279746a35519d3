"""The attention function against plain attention, in float64."""

import pytest
import torch

from vlprompt.engine import attention
from vlprompt.engine.attention import (
    SMALL,
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


def layout(pack: Pack) -> torch.Tensor:
    """Which position sees which, (T, T), entry by entry."""
    sizes = [length for count, length in pack.groups for _ in range(count)]
    owner = [0] * pack.prefix + [i + 1 for i, n in enumerate(sizes) for _ in range(n)]
    return torch.tensor(
        [
            [(not a or a == b) and (k <= q or not pack.causal) for k, a in enumerate(owner)]
            for q, b in enumerate(owner)
        ]
    )


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
    ours = mix(*attend(q, Shared(k, v), D**-0.5), q, prompt, D**-0.5)
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
        assert mix(*attend(q * 50, Shared(k, v), 1.0), q * 50, prompt, 1.0).isfinite().all()


@pytest.mark.parametrize("pack", [Pack(4, ((2, 1), (3, 2), (1, 5))), Pack(0, ((2, 3),)), Pack(6, ((1, 1),))])
@pytest.mark.parametrize("shared", [0, 3])
def test_packed_attention_equals_attention_with_a_mask(pack, shared):
    sizes = [length for count, length in pack.groups for _ in range(count)]
    total = pack.prefix + sum(sizes)
    q, k, v = qkv(total)
    extra = [torch.randn(2, H, shared, D, dtype=torch.float64) for _ in range(2)]
    mask = torch.cat([torch.ones(total, shared, dtype=torch.bool), layout(pack)], 1)
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


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["plain", "prompt", "gates", "mixture"])
@pytest.mark.parametrize("small", [SMALL, 0], ids=["with a mask", "suffix by suffix"])
def test_a_pack_small_or_large_is_attention_with_a_mask(monkeypatch, small, kind, causal):
    monkeypatch.setattr(attention, "SMALL", small)
    pack = Pack(4 if causal else 0, ((2, 1), (3, 2), (1, 5)), causal)
    seen = layout(pack)
    total = len(seen)
    q, k, v = (x.requires_grad_() for x in qkv(total))
    own = [torch.randn(H, 3, D, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    gates = torch.tensor([[0.0, -0.3, -torch.inf], [-0.1, 0.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    prompt = {
        "plain": AttentionPrompt(pack),
        "prompt": AttentionPrompt(pack, *own),
        "gates": AttentionPrompt(pack, *own, log_gates=gates),
        "mixture": AttentionPrompt(pack, *own, lengths=(1, 2), weights=weights),
    }[kind]

    def with_prompt(chosen: slice, bias: torch.Tensor) -> torch.Tensor:
        key, value = (x[:, chosen].expand(2, -1, -1, -1) for x in own)
        bias = bias[:, None, None, chosen].expand(-1, 1, total, -1)
        mask = torch.zeros(2, 1, total, total, dtype=q.dtype).masked_fill(~seen, -torch.inf)
        scores = q @ torch.cat([key, k], 2).mT * D**-0.5 + torch.cat([bias, mask], -1)
        return scores.softmax(-1) @ torch.cat([value, v], 2)

    none = torch.zeros(2, 3, dtype=q.dtype)
    if kind == "mixture":
        parts = slice(0), slice(1), slice(1, 3)
        plain = sum(w * with_prompt(part, none) for w, part in zip(weights, parts, strict=True))
    else:
        chosen = slice(0 if kind == "plain" else 3)
        plain = with_prompt(chosen, gates if kind == "gates" else none)
    inputs = [q, k, v] if kind == "plain" else [q, k, v, *own]
    upstream = torch.randn_like(plain)
    for at in (list(range(total)), pack.ends):
        ours, _ = prompt_attention(torch.nn.Module(), q[:, :, at], k, v, None, prompt=prompt)
        ours, theirs = ours.transpose(1, 2), plain[:, :, at]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        a = torch.autograd.grad((ours * upstream[:, :, at]).sum(), inputs)
        b = torch.autograd.grad((theirs * upstream[:, :, at]).sum(), inputs, retain_graph=True)
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_function_without_a_prompt_is_the_models_own_attention():
    q, k, v = qkv(7)
    module = torch.nn.Module()
    module.is_causal = False
    ours, _ = prompt_attention(module, q, k, v, None, scaling=D**-0.5)
    torch.testing.assert_close(ours, softmax_attention(q, k, v).transpose(1, 2), rtol=0, atol=1e-12)
