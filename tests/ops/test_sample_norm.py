"""sample_norm equals the formula of GroupNorm with one group."""

import pytest
import torch

from agreement import assert_agree, inside_nan, random
from glocal.ops import sample_norm

pytestmark = pytest.mark.usefixtures("one_thread")

EPS = 1e-5


def by_formula(x, weight, bias):
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) / (variance + EPS).sqrt() * weight[:, None, None] + bias[:, None, None]


def inputs(size):
    return {"x": random(2, 3, *size), "weight": random(3, seed=1), "bias": random(3, seed=2)}


@pytest.mark.parametrize("size", [(5, 7), (13, 9), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_matches_the_formula(size, layout):
    named = inputs(size)
    named["x"] = named["x"].contiguous(memory_format=layout)
    assert_agree(lambda **named: sample_norm(**named, eps=EPS), by_formula, named)


def test_reads_nothing_outside_the_map():
    named = inputs((5, 7))
    expected = by_formula(**named)
    named["x"] = inside_nan(named["x"])
    torch.testing.assert_close(sample_norm(**named, eps=EPS), expected)
