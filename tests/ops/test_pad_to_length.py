"""pad_to_length fills up short sequences; a graph adds rows to any sequence."""

import pytest
import torch

from agreement import random
from glocal.ops import pad_to_length
from glocal.ops.pad_to_length import graph


@pytest.mark.parametrize("length", [0, 4, 5, 9])
def test_rows(length):
    x = random(2, 5, 3)
    out = pad_to_length(x, length, 7.0)
    assert out.shape == (2, max(5, length), 3)
    assert torch.equal(out[:, :5], x)
    assert (out[:, 5:] == 7).all()


def test_a_graph_for_any_length_is_always_long_enough():
    class Padded(torch.nn.Module):
        def forward(self, x):
            return pad_to_length(x, 6, 7.0)

    program = torch.export.export(
        Padded(), (random(2, 5, 3),), dynamic_shapes={"x": {1: torch.export.Dim("n", min=2, max=9)}}
    )
    for n in (2, 5, 9):
        x = random(2, n, 3)
        out = program.module()(x)
        torch.testing.assert_close(out, graph.pad_to_length(x, 6, 7.0))
        torch.testing.assert_close(out[:, : max(n, 6)], pad_to_length(x, 6, 7.0))
