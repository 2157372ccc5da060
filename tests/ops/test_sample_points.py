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
