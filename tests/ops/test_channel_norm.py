"""channel_norm normalises every position by itself."""

import pytest
import torch

from agreement import assert_agree, inside_nan, random, run
from glocal.ops import channel_norm

pytestmark = pytest.mark.usefixtures("one_thread")

EPS = 1e-3


def by_moments(x, weight, bias):
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / (variance + EPS).sqrt() * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def actual(x, weight, bias):
    return channel_norm(x, weight, bias, EPS)


def inputs(size, channels=6, batch=2):
    return {"x": random(batch, channels, *size), "weight": random(channels, seed=1), "bias": random(channels, seed=2)}


@pytest.mark.parametrize("size", [(5, 7), (13, 9), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("channels", [1, 6])
def test_matches_moments(size, channels):
    assert_agree(actual, by_moments, inputs(size, channels))


def test_gradcheck():
    named = {name: tensor.requires_grad_() for name, tensor in inputs((2, 3), batch=1).items()}
    assert torch.autograd.gradcheck(actual, tuple(named.values()))


@pytest.mark.parametrize("layout", [inside_nan, lambda x: x.contiguous(memory_format=torch.channels_last)])
def test_memory_layout_changes_nothing(layout):
    named = inputs((5, 7))
    torch.testing.assert_close(actual(**{**named, "x": layout(named["x"])}), by_moments(**named))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    """Statistics are taken in a wider type: an offset of 100 must not drown a spread of 1."""
    named = inputs((5, 7), channels=32)
    named["x"] = (named["x"] + 100).to(dtype).double()
    out, grads = run(actual, {name: tensor.to(dtype) for name, tensor in named.items()})
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), by_moments(**named), rtol=0.05, atol=0.05)
    assert all(grad.isfinite().all() for grad in grads.values())
