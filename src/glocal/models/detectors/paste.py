"""The masks of objects in an image, from small maps of their boxes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.models.detectors.boxes import upcast


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
    """The masks of objects in an image: bool (N, H, W).

    A pixel belongs to an object if the probability at its centre is at least ½. The map of an object covers its box;
    between the centres of its cells it is interpolated (bilinear), to 0 beyond its border. A box without extent has no
    pixels.

    Args:
        masks: (N, h, w), logits.
        boxes: (N, 4), in pixels of `size`.
        size: (H, W).
    """
    height, width = (int(side) for side in size)
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    probabilities = upcast(masks).sigmoid()
    for image, probability, (x1, y1, x2, y2) in zip(pasted, probabilities, boxes.tolist(), strict=True):
        if not (x2 > x1 and y2 > y1):
            continue
        rows, columns = _near(y1, y2, height), _near(x1, x2, width)  # elsewhere the value is below ½
        down = _weights(rows, y1, y2, probability, probability.shape[0])
        across = _weights(columns, x1, x2, probability, probability.shape[1])
        image[rows.start : rows.stop, columns.start : columns.stop] = down @ probability @ across.T >= 0.5
    return pasted


def _near(low: float, high: float, side: int) -> range:
    """The pixels of a side that an interval touches, and one more at each end."""
    start = math.floor(max(0, low - 1))
    return range(start, max(start, math.ceil(min(side, high + 1))))


def _weights(pixels: range, low: float, high: float, like: Tensor, cells: int) -> Tensor:
    """The share of each cell of an interval in the value at the centre of each pixel, (pixels, cells)."""
    kind = {"dtype": like.dtype, "device": like.device}
    centres = torch.arange(pixels.start, pixels.stop, **kind) + 0.5
    places = (centres - low) / (high - low) * cells - 0.5
    return (1 - (places[:, None] - torch.arange(cells, **kind)).abs()).clamp(min=0)
