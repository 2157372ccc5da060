"""by_rows equals one call of the function."""

import pytest
import torch

from agreement import assert_agree, random
from glocal.ops import by_rows


def squares(x):
    return x.square() + x


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 100])
def test_equals_one_call(rows):
    assert_agree(lambda x: by_rows(squares, x, 3, 3 * rows), squares, {"x": random(7, 3)})


def test_hands_over_some_rows_at_a_time():
    seen = []
    by_rows(lambda x: seen.append(len(x)) or x, random(7, 3), numbers_per_row=3, most=11)
    assert seen == [3, 3, 1]


def test_a_graph_gets_all_rows_at_once():
    seen = []
    torch.jit.trace(lambda x: by_rows(lambda x: seen.append(len(x)) or x, x, 3, 9), random(7, 3), check_trace=False)
    assert seen == [7]
