import pytest
import torch

from glocal.ops import deformable_attention, sample_points


def value_at(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """The bilinear value of (C, H, W) at (x, y), in units of the sides; zero outside."""
    height, width = image.shape[1:]
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for i in (int(row // 1), int(row // 1) + 1):
        for j in (int(column // 1), int(column // 1) + 1):
            if 0 <= i < height and 0 <= j < width:
                total = total + (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return total


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
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
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


@pytest.mark.parametrize("size", [(1, 1), (5, 3)], ids=str)
def test_sampled_points(size):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    points = torch.rand(2, 7, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    expected = [
        torch.stack([value_at(image, *point.tolist()) for point in row], 1)
        for image, row in zip(maps, points, strict=True)
    ]
    torch.testing.assert_close(sample_points(maps, points), torch.stack(expected))
