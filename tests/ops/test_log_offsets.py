"""log_offsets gives each query and key the formula's offset, eager and in a graph."""

import math

import pytest
import torch

from agreement import random
from glocal.ops import log_offsets
from glocal.ops.log_offsets import graph

UNIT = 8.0 / 6


def pair_by_pair(size, pooled):
    """sign(Δ) · log2(|Δ| + 1) / log2 8 with the mean coordinate of each key's window, (size, pooled)."""
    rows = []
    for query in range(size):
        row = []
        for key in range(pooled):
            window = range(key * size // pooled, -(-(key + 1) * size // pooled))
            delta = (query - sum(window) / len(window)) * UNIT
            row.append(math.copysign(math.log2(abs(delta) + 1) / 3, delta) if delta else 0.0)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("function", [log_offsets, graph.log_offsets], ids=["eager", "graph"])
@pytest.mark.parametrize(("size", "pooled"), [(1, 1), (7, 7), (8, 4), (7, 3), (5, 1), (13, 4), (3, 5)], ids=str)
def test_equals_the_formula(size, pooled, function):
    offsets, index = function(size, pooled, UNIT, random(1))
    assert index.shape == (size * pooled,)
    torch.testing.assert_close(offsets[index].view(size, pooled), pair_by_pair(size, pooled))


def test_no_offset_is_there_twice():
    for size, pooled in ((8, 4), (7, 3)):
        offsets, _ = log_offsets(size, pooled, UNIT, random(1))
        assert len(offsets.unique()) == len(offsets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_has_the_type_of_the_tensor_given(dtype):
    offsets, _ = log_offsets(7, 3, UNIT, torch.ones(1, dtype=dtype))
    assert offsets.dtype == dtype
