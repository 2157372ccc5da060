"""pad_to_even adds zeros at the right and bottom of odd sizes; a graph adds what a convolution drops again."""

import pytest
import torch
import torch.nn.functional as F

from agreement import random
from glocal.ops import pad_to_even
from glocal.ops.pad_to_even import graph

SIZES = [(1, 1), (2, 3), (5, 4), (6, 8), (5, 7)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rows_and_columns(size):
    x = random(2, 3, *size)
    out = pad_to_even(x)
    assert out.shape[2:] == tuple(n + n % 2 for n in size)
    assert torch.equal(out[:, :, : size[0], : size[1]], x)
    assert out.sum() == pytest.approx(x.sum().item())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_convolution_with_stride_2_makes_the_same_of_the_graphs_form(size):
    x, weight = random(2, 3, *size), random(4, 3, 2, 2, seed=1)
    expected = F.conv2d(pad_to_even(x), weight, stride=2)
    torch.testing.assert_close(F.conv2d(graph.pad_to_even(x), weight, stride=2), expected)
