"""Anchors: places, shapes, order, and which of them count."""

import math

import pytest
import torch

from glocal.models.detectors.anchors import AnchorGrid

GRID = AnchorGrid(strides=(4, 16), ratios=(0.5, 2.0), scales=(8, 10))
MAPS = [torch.empty(1, 5, 3, 2), torch.empty(1, 5, 1, 4)]


def by_loop(stride, rows, columns):
    """Height over width is the ratio, the area is (stride · scale)²; the centre is at the first corner of the cell."""
    found = []
    for row in range(rows):
        for column in range(columns):
            for ratio in (0.5, 2.0):
                for scale in (8, 10):
                    width = stride * scale / math.sqrt(ratio)
                    height = width * ratio
                    x, y = column * stride, row * stride
                    found.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return torch.tensor(found, dtype=torch.float64)


def test_places_shapes_and_order():
    fine, coarse = GRID([x.double() for x in MAPS])
    torch.testing.assert_close(fine, by_loop(4, 3, 2))
    torch.testing.assert_close(coarse, by_loop(16, 1, 4))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_pixels_need_single_precision(dtype, expected):
    assert [x.dtype for x in GRID([x.to(dtype) for x in MAPS])] == [expected] * 2


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((32, 32), 8, 8),
        ((33, 1), 16, 8),  # padded to (64, 32)
        ((96, 100), 24, 32),
    ],
)
def test_anchors_in_cells_of_the_padded_image_are_valid(size, rows, columns):
    maps = [torch.empty(24, 40), torch.empty(6, 10)]
    fine, coarse = GRID.valid(maps, size)
    assert fine.reshape(24, 40, 4)[:rows, :columns].all()
    assert int(fine.sum()) == rows * columns * 4
    assert int(coarse.sum()) == math.ceil(rows / 4) * math.ceil(columns / 4) * 4


def test_a_cell_that_the_padded_image_only_touches_is_valid():
    (valid,) = AnchorGrid((128,), (1.0,), (4,)).valid([torch.empty(5, 6)], (300, 385))  # padded to (320, 416)
    assert valid.reshape(5, 6).sum(0).tolist() == [3, 3, 3, 3, 0, 0]


def test_no_more_anchors_than_the_map_has_cells():
    assert [int(x.sum()) for x in GRID.valid(MAPS, (500, 500))] == [3 * 2 * 4, 4 * 4]
