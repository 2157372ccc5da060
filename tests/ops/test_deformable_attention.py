from functools import partial

import pytest
import torch

from glocal.ops import deformable_attention
from ops.test_sample_points import value_at


def naive(values, sizes, places, weights):
    """Deformable attention, place by place."""
    batch, _, heads, dim = values.shape
    result = torch.zeros(batch, places.shape[1], heads, dim, dtype=values.dtype)
    for b in range(batch):
        for q in range(places.shape[1]):
            for h in range(heads):
                start = 0
                for level, (height, width) in enumerate(sizes):
                    image = values[b, start : start + height * width, h].t().reshape(dim, height, width)
                    for p in range(places.shape[4]):
                        x, y = places[b, q, h, level, p].tolist()
                        result[b, q, h] += weights[b, q, h, level, p] * value_at(image, x, y)
                    start += height * width
    return result.flatten(2)


def inputs(sizes, batch=2, queries=5, heads=2, points=3, dim=4):
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.rand, generator=generator, dtype=torch.float64)
    count = sum(height * width for height, width in sizes)
    values = draw(batch, count, heads, dim)
    places = draw(batch, queries, heads, len(sizes), points, 2) * 1.6 - 0.3  # some outside
    return values, places, draw(batch, queries, heads, len(sizes), points)


SIZES = [[(1, 1)], [(3, 5), (2, 3)], [(7, 4), (4, 2), (2, 1)]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_sum_place_by_place(sizes):
    values, places, weights = inputs(sizes)
    torch.testing.assert_close(
        deformable_attention(values, sizes, places, weights), naive(values, sizes, places, weights)
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients(sizes):
    values, places, weights = (x.requires_grad_() for x in inputs(sizes, 1, 2, 2, 2, 2))
    assert torch.autograd.gradcheck(lambda v, p, w: deformable_attention(v, sizes, p, w), (values, places, weights))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(3, 5), (2, 2)], "have 19 positions, and there are 21 values"),
        ([(3, 5), (3, 3)], "have 24 positions, and there are 21 values"),
        ([(3, 7)], "there are sizes of 1 maps, and places in 2"),
    ],
)
def test_sizes_of_other_maps_are_refused(sizes, message):
    values, *others = inputs([(3, 5), (2, 3)])
    with pytest.raises(ValueError, match=message):
        deformable_attention(values, sizes, *others)


@pytest.mark.parametrize("empty", ["batch", "queries", "points"])
def test_nothing_to_read(empty):
    given = [x.requires_grad_() for x in inputs(SIZES[1], **{empty: 0})]
    found = deformable_attention(given[0], SIZES[1], *given[1:])
    assert found.shape == (given[0].shape[0], given[1].shape[1], 8)
    assert not found.any()
    found.sum().backward()
    assert not any(x.grad.any() for x in given)


def test_layouts_and_shared_values():
    values, places, weights = inputs(SIZES[1])
    values = values[:, :, :1].expand(-1, -1, 2, -1)  # both heads read the same numbers in memory
    places, weights = (x.transpose(0, -1).contiguous().transpose(0, -1) for x in (places, weights))
    expected = naive(values, SIZES[1], places, weights)
    torch.testing.assert_close(deformable_attention(values, SIZES[1], places, weights), expected)
