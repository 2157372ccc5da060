"""Features of regions: RoIAlign (arXiv 1703.06870, section 3) on the level of a pyramid that fits the region's size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

STRIDES = (4, 8, 16, 32)
FINEST = 56  # side of a square region, in pixels, from which the second level would follow at its double
EPSILON = 1e-6


def level_of(boxes: Tensor) -> Tensor:
    """The level that each region is read from: ⌊log₂(√(w·h)/56 + 1e-6)⌋ within 0 … 3.

    boxes: (N, 4). Returns (N,) int64. Source: arXiv 1612.03144, equation 1, in the form of the original code.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = (sides[:, 0] * sides[:, 1]).clamp(min=0).sqrt()
    return (scale / FINEST + EPSILON).log2().floor().clamp(0, len(STRIDES) - 1).long()


def region_features(maps: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
    """side×side features of each region, averages of bilinear samples: as many in a bin as it has pixels, rounded up.

    Positions are half-pixel centres; the maps are zero one position beyond their borders.

    Args:
        maps: four, (B, C, H, W) at strides 4, 8, 16, 32.
        boxes: of each image, (N, 4) in pixels of the input; N may be 0.
        side: of the result.

    Returns:
        (sum of N, C, side, side), image by image, in the type of the maps.
    """
    flat = torch.cat(list(boxes)).nan_to_num()  # RoIAlign would make an index of NaN
    image = torch.cat([torch.full_like(box[:, :1], i) for i, box in enumerate(boxes)])
    # Half precision would move the regions: 1/8 pixel at 256.
    regions = torch.cat((image, flat), 1).to(torch.promote_types(maps[0].dtype, torch.float32))
    level = level_of(flat)
    places = [(level == i).nonzero()[:, 0] for i in range(len(STRIDES))]
    parts = [
        roi_align(x.to(regions.dtype), regions[place], side, 1 / stride, sampling_ratio=-1, aligned=True)
        for x, place, stride in zip(maps, places, STRIDES, strict=True)
    ]
    return torch.cat(parts)[torch.cat(places).argsort()].to(maps[0].dtype)
