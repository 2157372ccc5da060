"""resize_bias equals torch's bicubic interpolation."""

import pytest
import torch.nn.functional as F

from agreement import assert_agree, random
from glocal.ops import dispatch, resize_bias

SIZES = [(5, 7), (12, 9), (3, 20), (1, 1), (5, 9)]


def by_torch(size):
    return lambda bias: F.interpolate(bias, size, mode="bicubic", align_corners=False)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_torch(size):
    assert_agree(lambda bias: resize_bias(bias, *size), by_torch(size), {"bias": random(1, 2, 5, 7)})


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_resized_by_gathers_in_a_graph(size):
    with dispatch.as_exported():
        assert_agree(lambda bias: resize_bias(bias, *size), by_torch(size), {"bias": random(1, 2, 5, 7)})


def test_of_its_own_size_it_is_the_bias_itself():
    bias = random(1, 2, 5, 7)
    assert resize_bias(bias, 5, 7) is bias
