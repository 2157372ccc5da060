"""Masks of boxes in the image equal the golden ones, and bilinear sampling at every pixel."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glocal.models.detectors.paste import paste
from golden.detectors import load

UNITS = load("units_det")


def by_sampling(masks, boxes, size):
    """grid_sample of every mask at the centre of every pixel of the image."""
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    found = []
    for mask, (x1, y1, x2, y2) in zip(masks.sigmoid(), boxes, strict=True):
        across, down = 2 * (x - x1) / (x2 - x1) - 1, 2 * (y - y1) / (y2 - y1) - 1
        grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).to(mask)
        found.append(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5)
    return torch.stack(found)


def test_golden():
    size, boxes = UNITS["paste_size"].tolist(), torch.from_numpy(UNITS["paste_boxes"])
    probabilities = torch.from_numpy(np.random.RandomState(7200).uniform(size=(4, 28, 28)))
    pasted = paste(probabilities.logit(), boxes, size)
    expected = np.unpackbits(UNITS["pasted"])[: pasted.numel()].reshape(4, *size)
    assert np.array_equal(pasted.numpy(), expected.astype(bool))


BOXES = {
    "inside": [12.3, 7.7, 40.1, 29.9],
    "all": [0.0, 0.0, 60.0, 45.0],
    "over the border": [-20.0, -7.5, 30.5, 70.0],
    "of less than a pixel": [20.6, 11.2, 21.1, 11.6],
    "outside at the left": [-30.0, 5.0, -10.0, 20.0],
    "outside at the right": [90.0, 60.0, 120.0, 70.0],
}


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("side", [28, 14])
def test_equals_sampling_everywhere(box, side):
    torch.manual_seed(0)
    masks, boxes = 3 * torch.randn(2, side, side, dtype=torch.float64), torch.tensor([BOXES[box]] * 2).double()
    pasted = paste(masks, boxes, (45, 60))
    assert pasted.dtype == torch.bool
    assert torch.equal(pasted, by_sampling(masks, boxes, (45, 60)))


def test_sure_masks_fill_their_boxes():
    pasted = paste(torch.full((1, 28, 28), 30.0), torch.tensor([[3.0, 2.0, 9.0, 6.0]]), (10, 12))
    expected = torch.zeros(1, 10, 12, dtype=torch.bool)
    expected[:, 2:6, 3:9] = True
    assert torch.equal(pasted, expected)


@pytest.mark.parametrize("box", [[5.0, 2.0, 5.0, 8.0], [5.0, 8.0, 9.0, 8.0], [float("nan")] * 4])
def test_a_box_without_extent_has_no_pixels(box):
    assert not paste(torch.full((1, 28, 28), 30.0), torch.tensor([box]), (10, 12)).any()


def test_no_masks():
    assert paste(torch.empty(0, 28, 28), torch.empty(0, 4), (7, 9)).shape == (0, 7, 9)


def test_a_pixel_of_probability_one_half_belongs_to_the_object():
    """All logits are 0: between the centres of the four cells the probability is ½, and less beyond them."""
    expected = torch.zeros(1, 4, 4, dtype=torch.bool)
    expected[:, 1:3, 1:3] = True
    assert torch.equal(paste(torch.zeros(1, 2, 2), torch.tensor([[0.0, 0.0, 4.0, 4.0]]), (4, 4)), expected)
