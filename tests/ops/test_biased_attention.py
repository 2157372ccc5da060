"""biased_attention equals its formula, head by head, on every backend."""

import pytest
import torch
import torch.nn.functional as F

from agreement import assert_agree, random
from glocal.ops import biased_attention, dispatch, tiled_attention

HEADS, D = 2, 3
SIZES = [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((5, 7), (3, 4)), ((2, 2), (5, 5))]


@pytest.fixture(autouse=True, params=["reference", "cpu", "graph"])
def form(request):
    """The form of the op that a test gets."""
    before = dispatch.backend()
    dispatch.set_backend("reference" if request.param == "reference" else "auto")
    if request.param == "graph":
        with dispatch.as_exported():
            yield request.param
    else:
        yield request.param
    dispatch.set_backend(before)


def head_by_head(q, k, v, bias):
    out = []
    for head in range(HEADS):
        own = slice(head * D, (head + 1) * D)
        query, key, value = (x[:, own].flatten(2) for x in (q, k, v))
        weights = (torch.einsum("bdn,bdm->bnm", query, key) * D**-0.5 + bias[0, head]).softmax(-1)
        out.append(torch.einsum("bnm,bdm->bdn", weights, value))
    return torch.cat(out, dim=1).view(q.shape)


def with_resized(q, k, v, bias):
    numbers = q.shape[2] * q.shape[3], k.shape[2] * k.shape[3]
    return head_by_head(q, k, v, F.interpolate(bias, numbers, mode="bicubic"))


def inputs(size, keys):
    named = {"q": random(2, HEADS * D, *size)}
    named |= {name: random(2, HEADS * D, *keys, seed=i + 1) for i, name in enumerate("kv")}
    return named | {"bias": random(1, HEADS, size[0] * size[1], keys[0] * keys[1], seed=3)}


@pytest.mark.parametrize(("size", "keys"), SIZES, ids=str)
def test_equals_its_formula(size, keys):
    assert_agree(biased_attention, head_by_head, inputs(size, keys))


@pytest.mark.parametrize(("size", "keys"), SIZES, ids=str)
@pytest.mark.parametrize("learns", [False, True])
@torch.no_grad()
def test_equals_its_formula_without_gradients(size, keys, learns):
    named = inputs(size, keys)
    named["bias"].requires_grad_(learns)
    torch.testing.assert_close(biased_attention(**named), head_by_head(**named))


@pytest.fixture
def outside_graphs(form):
    if form == "graph":
        pytest.skip("graphs hold a bias of the right size")


@pytest.mark.usefixtures("outside_graphs")
@pytest.mark.parametrize("learned", [(6, 2), (80, 3), (35, 20), (100, 12)], ids=str)
@pytest.mark.parametrize("at_a_time", [1, 2**20])
def test_a_bias_of_another_size_is_resized(learned, at_a_time, monkeypatch):
    monkeypatch.setattr(tiled_attention, "AT_A_TIME", at_a_time)
    named = inputs((5, 7), (3, 4)) | {"bias": random(1, HEADS, *learned)}
    assert_agree(biased_attention, with_resized, named)
    with torch.no_grad():
        torch.testing.assert_close(biased_attention(**named), with_resized(**named))


@pytest.mark.usefixtures("outside_graphs")
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_result_with_a_resized_bias_is_in_channels_last(format):
    named = inputs((5, 7), (3, 4)) | {"bias": random(1, HEADS, 6, 2)}
    named |= {name: named[name].contiguous(memory_format=format) for name in "qkv"}
    out = biased_attention(**named)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, with_resized(**named))


def test_a_bias_that_learns_takes_no_slow_way_on_a_cpu(form):
    """torch's attention looks for rows without any key if its bias requires a gradient."""
    if form != "cpu":
        pytest.skip("other forms leave that to torch")
    named = {name: tensor.float() for name, tensor in inputs((5, 7), (3, 4)).items()}
    named |= {name: named[name].contiguous(memory_format=torch.channels_last) for name in "qkv"}
    named["bias"].requires_grad_()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), torch.profiler.profile() as seen:
            biased_attention(**named)
        assert not any("safe_softmax" in event.key for event in seen.key_averages())
