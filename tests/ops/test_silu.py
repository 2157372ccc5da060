"""silu equals its formula, and overwrites its input only if nothing else needs it."""

import pytest
import torch

from agreement import assert_agree, random
from glocal.ops import silu


def by_formula(x):
    return x / (1 + (-x).exp())


@pytest.mark.parametrize("shape", [(1,), (2, 3), (2, 3, 5, 7)], ids=str)
def test_equals_its_formula(shape):
    assert_agree(silu, by_formula, {"x": random(*shape)})


def test_without_gradients_the_result_takes_the_place_of_the_input():
    x = random(2, 3, 5, 7)
    expected = by_formula(x)
    with torch.no_grad():
        out = silu(x)
    assert out.data_ptr() == x.data_ptr()
    torch.testing.assert_close(out, expected)


def test_with_gradients_the_input_stays():
    x = random(2, 3, 5, 7).requires_grad_()
    before = x.detach().clone()
    silu(x)
    assert torch.equal(x, before)
