"""aggregated_attention equals a loop over positions that only ever sees neighbours inside the map."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F

from agreement import assert_agree, assert_many_gradients, inside_nan, random, run
from glocal import ops
from glocal.ops import dispatch, tiled_attention

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH, HEADS, DIM = 2, 2, 3
WAY = "cpu"


@pytest.fixture(autouse=True, params=["reference", "cpu", "reference, table", "cpu, table"])
def way(request, monkeypatch):
    """The reference, and what a CPU computes; there with tiles small enough that a small map has several.

    With the table of a bias a CPU computes in another way, some rows of queries at a time.
    """
    module = sys.modules["glocal.ops.aggregated_attention.cpu"]
    monkeypatch.setattr(module, "TILE", 3)
    monkeypatch.setattr(module, "WHOLE", 20)
    monkeypatch.setattr(tiled_attention, "AT_A_TIME", 2 * 7 * 6 * HEADS)
    monkeypatch.setitem(globals(), "WAY", request.param)
    before = dispatch.backend()
    dispatch.set_backend(request.param.split(",")[0].replace("cpu", "auto"))
    yield request.param
    dispatch.set_backend(before)


def aggregated_attention(
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias
):
    """The op; if a table is asked for, with the bias as one that has each number once."""
    first, others = (q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias), (tokens, token_bias)
    if "table" not in WAY:
        return ops.aggregated_attention(*first, pooled_bias, *others)
    (height, width), pooled = q.shape[3:], pooled_k.shape[-1]
    table = pooled_bias.unflatten(2, (height, width)).permute(2, 3, 1, 0).flatten(1, 2)  # (H, W·P, heads)
    rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width * pooled).view(width, pooled)
    return ops.aggregated_attention(*first, table, *others, rows, columns)


def position_by_position(
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias
):
    batch, heads, d, height, width = q.shape
    q, k, pooled_k = (x / x.norm(dim=2, keepdim=True) for x in (q, k, pooled_k))
    rows = []
    for y in range(height):
        for x in range(width):
            taps = [
                (3 * (dy + 1) + dx + 1, y + dy, x + dx)
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if 0 <= y + dy < height and 0 <= x + dx < width
            ]
            n = [tap for tap, _, _ in taps]
            near_k = torch.stack([k[..., sy, sx] for _, sy, sx in taps], dim=2)  # (B, heads, n, d)
            near_v = torch.stack([v[..., sy, sx] for _, sy, sx in taps], dim=2)
            query = q[..., y, x]  # (B, heads, d)
            scale = temperature * math.log(len(taps) + pooled_k.shape[-1])
            scaled = (query + query_embedding) * scale[:, None]
            local = torch.einsum("bhd,bhnd->bhn", scaled, near_k) + local_bias[:, n]
            pooled = torch.einsum("bhd,bhdp->bhp", scaled, pooled_k) + pooled_bias[:, :, y * width + x]
            attention = torch.cat([local, pooled], dim=-1).softmax(-1)
            local, pooled = attention[..., : len(n)], attention[..., len(n) :]
            local = local + torch.einsum("bhd,hdn->bhn", query, tokens[:, :, n]) + token_bias[:, n]
            rows.append(torch.einsum("bhn,bhnd->bhd", local, near_v) + torch.einsum("bhp,bhdp->bhd", pooled, pooled_v))
    return torch.stack(rows, dim=-1).reshape(batch, heads, d, height, width)


def by_unfold(q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias):
    """The published formula on nine copies of the map."""
    batch, heads, d, height, width = q.shape
    q, k, pooled_k = (F.normalize(x, dim=2) for x in (q, k, pooled_k))

    def unfold(x):  # (B, heads, d, 9, H·W)
        return F.unfold(x.reshape(batch, heads * d, height, width), 3, padding=1).reshape(batch, heads, d, 9, -1)

    valid = F.unfold(torch.ones(1, 1, height, width, dtype=q.dtype), 3, padding=1)[0]  # (9, H·W)
    query = q.flatten(3)
    scaled = (
        (query + query_embedding[:, :, None]) * temperature[:, None, None] * (valid.sum(0) + pooled_k.shape[-1]).log()
    )
    local = (scaled.unsqueeze(3) * unfold(k)).sum(2) + local_bias[:, :, None]
    local = local.masked_fill(valid == 0, float("-inf"))
    pooled = torch.einsum("bhdn,bhdp->bhpn", scaled, pooled_k) + pooled_bias
    local, pooled = torch.cat([local, pooled], dim=2).softmax(2).split([9, pooled_k.shape[-1]], dim=2)
    local = local + torch.einsum("bhdn,hdt->bhtn", query, tokens) + token_bias[:, :, None]
    out = (local.unsqueeze(2) * unfold(v)).sum(3) + torch.einsum("bhpn,bhdp->bhdn", pooled, pooled_v)
    return out.reshape(q.shape)


def inputs(size, pooled, batch=BATCH):
    maps = (batch, HEADS, DIM, *size)
    return {
        "q": random(*maps, seed=0),
        "k": random(*maps, seed=1),
        "v": random(*maps, seed=2),
        "pooled_k": random(batch, HEADS, DIM, pooled, seed=3),
        "pooled_v": random(batch, HEADS, DIM, pooled, seed=4),
        "query_embedding": random(HEADS, DIM, seed=5),
        "temperature": random(HEADS, seed=6).abs() + 0.5,
        "local_bias": random(HEADS, 9, seed=7),
        "pooled_bias": random(HEADS, pooled, size[0] * size[1], seed=8),
        "tokens": random(HEADS, DIM, 9, seed=9),
        "token_bias": random(HEADS, 9, seed=10),
    }


SIZES = [((5, 7), 6), ((13, 9), 4), ((1, 1), 1), ((2, 3), 2), ((1, 6), 1), ((4, 4), 49)]


@pytest.mark.parametrize("expected", [position_by_position, by_unfold])
@pytest.mark.parametrize(("size", "pooled"), SIZES, ids=str)
def test_matches(expected, size, pooled):
    assert_agree(aggregated_attention, expected, inputs(size, pooled))


@pytest.mark.parametrize("grow", [1, 1e4], ids=["", "large logits"])
@pytest.mark.parametrize(("size", "pooled"), SIZES, ids=str)
def test_matches_without_gradients(size, pooled, grow):
    named = inputs(size, pooled)
    named |= {name: grow * named[name] for name in ("local_bias", "pooled_bias")}
    torch.testing.assert_close(aggregated_attention(**named), position_by_position(**named))


def test_with_a_table_no_logits_are_written(way):
    named = {name: tensor.requires_grad_() for name, tensor in inputs((20, 20), 100).items()}
    with torch.profiler.profile(profile_memory=True) as seen:
        aggregated_attention(**named).sum().backward()
    most = 20 * 20 * 100 * 8 * BATCH * HEADS  # bytes
    written = [event.cpu_memory_usage for event in seen.events() if "bias" not in event.name]
    assert (max(written) >= most) == (way != "cpu, table")


def test_one_head_is_one_head():
    """Every head, and every image, is by itself."""
    named = inputs((5, 7), 6)
    whole = aggregated_attention(**named)
    per_head = {"query_embedding", "temperature", "local_bias", "pooled_bias", "tokens", "token_bias"}
    for head in range(HEADS):
        one = {n: t[head : head + 1] if n in per_head else t[1:, head : head + 1] for n, t in named.items()}
        torch.testing.assert_close(aggregated_attention(**one), whole[1:, head : head + 1])


@pytest.mark.parametrize("size", [(2, 3), (1, 1)], ids=str)
def test_gradcheck(size):
    named = {name: tensor.requires_grad_() for name, tensor in inputs(size, 2, batch=1).items()}
    assert torch.autograd.gradcheck(aggregated_attention, tuple(named.values()))


def test_a_gradient_for_every_image():
    named = inputs((5, 7), 3)
    q, others = named.pop("q"), {name: tensor for name, tensor in named.items()}
    images = ("k", "v", "pooled_k", "pooled_v")

    def loss(tokens, q, *maps):
        one = others | dict(zip(images, (each[None] for each in maps), strict=True)) | {"tokens": tokens}
        return aggregated_attention(q[None], **one).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, *[0] * 5))(others["tokens"], q, *(others[n] for n in images))
    for number, grad in enumerate(each):
        tokens = others["tokens"].clone().requires_grad_()
        value = loss(tokens, q[number], *(others[name][number] for name in images))
        torch.testing.assert_close(grad, torch.autograd.grad(value, tokens)[0])


def test_reads_nothing_outside_the_map():
    named = inputs((5, 7), 6)
    expected = position_by_position(**named)
    named |= {name: inside_nan(named[name]) for name in ("q", "k", "v")}
    torch.testing.assert_close(aggregated_attention(**named), expected)


def test_large_values_stay_finite():
    """The softmax subtracts its maximum, and what is outside the map is no candidate for it."""
    named = inputs((5, 7), 6)
    named["pooled_bias"] = named["pooled_bias"] * 1e4
    named["local_bias"] = -1e4 * named["local_bias"].abs()
    out, grads = run(aggregated_attention, named)
    torch.testing.assert_close(out, position_by_position(**named))
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    named = inputs((13, 9), 4)
    expected = aggregated_attention(**named)
    out, grads = run(aggregated_attention, {name: tensor.to(dtype) for name, tensor in named.items()})
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.1, atol=0.2)
    assert all(grad.isfinite().all() for grad in grads.values())


def test_autocast_adds_the_biases_in_float32():
    """In bfloat16 numbers around 300 are 2 apart."""
    named = {name: tensor.float() for name, tensor in inputs((5, 7), 6).items()}
    named |= {name: named[name] + 300 for name in ("local_bias", "pooled_bias")}
    for tensor in named.values():
        tensor.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = aggregated_attention(**named)
    torch.testing.assert_close(out.float(), position_by_position(**named), atol=0.1, rtol=0.05)
    out.float().sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in named.values())


@pytest.mark.parametrize("size", [(5, 7), (2, 3)], ids=str)
def test_gradients_of_gradients(size, way):
    leaves = [tensor.requires_grad_() for tensor in inputs(size, 2, batch=1).values()]
    assert torch.autograd.gradgradcheck(aggregated_attention, leaves, fast_mode=True)


def test_many_gradients_at_once(way):
    named = {name: tensor.requires_grad_() for name, tensor in inputs((5, 7), 2, batch=1).items()}
    out = aggregated_attention(**named)
    assert_many_gradients(out, list(named.values()))
