"""LayerScale: per-channel weight and, in TransXNet, bias."""

import pytest
import torch
from torch.func import functional_call

from agreement import assert_agree, random, randomised
from glocal.layers.scale import LayerScale

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("bias", [False, True])
def test_scales_and_shifts_each_channel(bias):
    scale = randomised(LayerScale(3, 0.1, bias=bias))

    def expected(x, weight, bias=None):
        channels = [x[:, c] * weight[c] + (0 if bias is None else bias[c]) for c in range(3)]
        return torch.stack(channels, dim=1)

    def actual(x, **parameters):
        return functional_call(scale, parameters, (x,))

    assert_agree(actual, expected, {"x": random(2, 3, 5, 7), **dict(scale.named_parameters())})


def test_starts_at_its_initial_value():
    scale = LayerScale(3, 1e-5, bias=True)
    assert torch.equal(scale.weight, torch.full((3, 1, 1), 1e-5))
    assert torch.equal(scale.bias, torch.zeros(3, 1, 1))
    assert LayerScale(3, 1e-5).bias is None
