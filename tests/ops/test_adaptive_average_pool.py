"""adaptive_average_pool equals torch's."""

import pytest
import torch
import torch.nn.functional as F

from agreement import assert_agree, random
from glocal.ops import adaptive_average_pool, dispatch


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("target", [(7, 7), (1, 1), (2, 5), (13, 9)], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (2, 3), (13, 9), (30, 31)], ids=str)
def test_equals_torch(size, target, layout):
    x = random(2, 3, *size).contiguous(memory_format=layout)
    assert_agree(lambda x: adaptive_average_pool(x, *target), lambda x: F.adaptive_avg_pool2d(x, target), {"x": x})


@pytest.mark.parametrize("target", [(7, 7), (1, 1), (2, 5), (13, 9)], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (2, 3), (30, 31)], ids=str)
def test_equals_torch_in_a_graph(size, target):
    x = random(2, 3, *size)
    with dispatch.as_exported():
        assert_agree(lambda x: adaptive_average_pool(x, *target), lambda x: F.adaptive_avg_pool2d(x, target), {"x": x})


def test_under_autocast():
    x = random(2, 3, 9, 11).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = adaptive_average_pool(x, 4, 5)
    torch.testing.assert_close(out, F.adaptive_avg_pool2d(x, (4, 5)))
