"""Features of regions and targets of masks equal loops over bins and samples; levels follow their rule at borders."""

import math

import numpy as np
import pytest
import torch

from agreement import assert_agree
from glocal.models.detectors.mask_head import mask_targets
from glocal.models.detectors.regions import STRIDES, level_of, region_features
from golden.detectors import ellipse, load

UNITS = load("units_det")


def value(pixels, y, x):
    """A bilinear sample of (C, H, W); 0 from one position outside."""
    height, width = pixels.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(pixels), dtype=pixels.dtype)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = pixels[:, top, left] * (1 - across) + pixels[:, top, right] * across
    lower = pixels[:, bottom, left] * (1 - across) + pixels[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def aligned(pixels, box, side):
    """Averages of samples in side×side bins of a box in units of the positions of (C, H, W)."""
    x1, y1, x2, y2 = (coordinate - 0.5 for coordinate in box)
    high, wide = (y2 - y1) / side, (x2 - x1) / side
    rows, columns = math.ceil(high), math.ceil(wide)
    bins = torch.zeros(len(pixels), side, side, dtype=pixels.dtype)
    for row in range(side):
        for column in range(side):
            samples = [
                value(pixels, y1 + high * (row + (i + 0.5) / rows), x1 + wide * (column + (j + 0.5) / columns))
                for i in range(rows)
                for j in range(columns)
            ]
            if samples:
                bins[:, row, column] = torch.stack(samples).mean(0)
    return bins


def by_samples(maps, boxes, side):
    rows = []
    for image, of_image in enumerate(boxes):
        for x1, y1, x2, y2 in of_image.tolist():
            length = math.sqrt((x2 - x1) * (y2 - y1))
            level = min(max(math.floor(math.log2(length / 56 + 1e-6)), 0), 3)
            rows.append(aligned(maps[level][image], [v / STRIDES[level] for v in (x1, y1, x2, y2)], side))
    return torch.stack(rows) + 0 * sum(x.sum() for x in maps)  # so that all have a gradient


def pyramid(height, width, batch=2, channels=2):
    draw = torch.Generator().manual_seed(3)
    return [
        torch.randn(batch, channels, math.ceil(height / s), math.ceil(width / s), generator=draw, dtype=torch.float64)
        for s in STRIDES
    ]


BOXES = {
    "all levels": [[[3, 5, 40, 51], [0, 10, 120.5, 190], [20, 3, 250.25, 240], [5, 0, 470, 460]], [[7, 9, 8, 200]]],
    "outside and empty": [[[-30, -40, 20, 25], [450, 470, 530, 560], [10, 20, 10, 20]], [[30, 40, 30, 90.5]]],
    "an image without regions": [[], [[30, 40, 90, 100]]],
}


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_equals_a_loop_over_samples(boxes, side):
    boxes = [torch.tensor(of_image, dtype=torch.float64).reshape(-1, 4) for of_image in boxes]
    assert_agree(
        lambda **maps: region_features(list(maps.values()), boxes, side),
        lambda **maps: by_samples(list(maps.values()), boxes, side),
        {f"map{i}": x for i, x in enumerate(pyramid(480, 490))},
    )


def test_no_region():
    maps = [x.requires_grad_() for x in pyramid(64, 64)]
    found = region_features(maps, [torch.zeros(0, 4)] * 2, 7)
    assert found.shape == (0, 2, 7, 7)
    found.sum().backward()
    assert all(x.grad.abs().sum() == 0 for x in maps)


def test_equals_the_authors_features():
    maps = [np.random.RandomState(7100 + i).standard_normal((2, 2, 64 // 2**i, 96 // 2**i)) for i in range(4)]
    regions = torch.from_numpy(UNITS["roi_rois"])
    order = regions[:, 0].sort(stable=True).indices  # ours go image by image
    found = region_features([torch.from_numpy(x) for x in maps], [regions[regions[:, 0] == i, 1:] for i in (0, 1)], 7)
    torch.testing.assert_close(found, torch.from_numpy(UNITS["roi_out"])[order], rtol=1e-9, atol=1e-9)


def test_regions_of_half_precision_maps_keep_their_places():
    maps = [x.bfloat16() for x in pyramid(320, 320)]
    boxes = [torch.tensor([[257.3, 101.7, 290.9, 133.1]]), torch.zeros(0, 4)]
    found = region_features(maps, boxes, 3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, region_features([x.float() for x in maps], boxes, 3).bfloat16())


def test_levels_of_the_authors():
    assert level_of(torch.from_numpy(UNITS["level_rois"])[:, -4:]).tolist() == UNITS["levels"].tolist()


@pytest.mark.parametrize(
    ("box", "level"),
    [
        ((0, 0, 1, 1), 0),
        ((0, 0, 112, 112), 1),
        ((0, 0, 111.9, 111.9), 0),
        ((0, 0, 448, 448), 3),
        ((0, 0, 4000, 4000), 3),
        ((5, 5, 5, 80), 0),
    ],
)
def test_levels(box, level):
    assert level_of(torch.tensor([box], dtype=torch.float32)).tolist() == [level]


class TestMaskTargets:
    def boxes(self):
        # odd numbers: no average is exactly one half, but for rounding
        boxes = [
            [2.13, 3.07, 40.19, 31.7],
            [0, 0, 63.7, 61.3],
            [41.3, 40.7, 90, 95],
            [10.1, 10.2, 12.7, 11],
            [3, 3, 3, 3],
        ]
        return torch.tensor(boxes)

    def masks(self, height=60, width=50, count=10):
        return torch.from_numpy(np.random.RandomState(0).rand(count, height, width) > 0.5)

    @pytest.mark.parametrize("owners", [[0, 9, 8, 3, 0], [9, 9, 9, 9, 9]])
    def test_equal_a_loop_over_samples(self, owners):
        boxes, masks = self.boxes().double(), self.masks()
        found = mask_targets(boxes, torch.tensor(owners), masks, (64, 64))
        padded = torch.zeros(10, 64, 64, dtype=torch.float64)
        padded[:, :60, :50] = masks
        inside = boxes.clamp(0, 64).tolist()
        expected = [aligned(padded[i : i + 1], box, 28)[0] >= 0.5 for i, box in zip(owners, inside, strict=True)]
        assert found.dtype == torch.float64
        assert torch.equal(found, torch.stack(expected).double())

    @pytest.mark.parametrize("more", [(0, 0), (4, 14), (70, 90)])
    def test_zeros_beyond_the_image_change_nothing(self, more):
        boxes, masks, owners = self.boxes(), self.masks(), torch.arange(5)
        wider = torch.nn.functional.pad(masks, (0, more[1], 0, more[0]))
        expected = mask_targets(boxes, owners, masks, (64, 64))
        assert torch.equal(mask_targets(boxes, owners, wider, (64, 64)), expected)

    def test_equal_the_authors(self):
        height, width = UNITS["crop_size"].tolist()
        masks = torch.from_numpy(np.stack([ellipse(box, height, width) for box in UNITS["crop_ellipses"]]))
        boxes, owners = (torch.from_numpy(UNITS[name]) for name in ("crop_boxes", "crop_inds"))
        found = mask_targets(boxes.double(), owners, masks, (height, width))
        assert np.packbits(found.numpy().astype(bool)).tolist() == UNITS["cropped"].reshape(-1).tolist()

    def test_no_region_and_no_object(self):
        none = torch.zeros(0, dtype=torch.int64)
        assert mask_targets(torch.zeros(0, 4), none, self.masks(), (64, 64)).shape == (0, 28, 28)
        assert mask_targets(torch.zeros(0, 4), none, self.masks(count=0), (64, 64)).shape == (0, 28, 28)


def test_a_cell_that_an_object_half_covers_is_of_the_object():
    """Cells of one pixel, half a pixel from those of the mask: at its edge the mean of 0 and 1."""
    mask = torch.zeros(1, 40, 64, dtype=torch.bool)
    mask[:, :, 20:] = True
    (found,) = mask_targets(torch.tensor([[10.5, 6.0, 38.5, 34.0]]), torch.tensor([0]), mask, (64, 64))
    assert found[0].tolist() == [0] * 9 + [1] * 19
