import pytest
import torch

from glocal.ops import sample_points


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


@pytest.mark.parametrize(
    ("maps", "points", "expected"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float64, torch.float32, torch.float64),
        (torch.float32, torch.float16, torch.float32),
    ],
)
def test_two_types_become_the_higher_one(maps, points, expected):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 6, generator=draw).to(maps)
    at = torch.rand(1, 9, 2, generator=draw).to(points)
    found = sample_points(x, at)
    assert found.dtype == expected
    torch.testing.assert_close(found, sample_points(x.double(), at.double()).to(expected))


def test_gradients():
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 4, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(2, 7, 2, generator=draw, dtype=torch.float64) * 1.5 - 0.25).requires_grad_()
    assert torch.autograd.gradcheck(sample_points, (maps, points))


@pytest.mark.parametrize(("batch", "channels", "count"), [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_nothing_to_sample(batch, channels, count):
    found = sample_points(torch.rand(batch, channels, 4, 5), torch.rand(batch, count, 2))
    assert found.shape == (batch, channels, count)
