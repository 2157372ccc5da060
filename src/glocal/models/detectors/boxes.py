"""Boxes as corners x1, y1, x2, y2 in pixels, (…, 4): overlaps, clipping, and codes relative to other boxes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1e-6  # of a union and a hull, pixels²
LARGEST_GROWTH = math.log(1000 / 16)  # of the logarithm of a side in one decoding, in both directions


def upcast(x: Tensor) -> Tensor:
    """The tensor in single precision if its type is narrower: pixels and their codes need as much."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union, (…), of boxes at the same places after broadcasting; unions are at least 1e-6."""
    intersection, union = _intersection_and_union(boxes, others)
    return intersection / union


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of all pairs of (N, 4) and (M, 4) boxes, (N, M)."""
    return iou(boxes[:, None], others[None])


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised intersection over union, −1 to 1, of boxes at the same places after broadcasting, (…).

    It is IoU − (hull − union) / hull, where the hull is the smallest box around both; unions and hulls are at least
    1e-6. Source: arXiv 1902.09630.
    """
    intersection, union = _intersection_and_union(boxes, others)
    width = torch.maximum(boxes[..., 2], others[..., 2]) - torch.minimum(boxes[..., 0], others[..., 0])
    height = torch.maximum(boxes[..., 3], others[..., 3]) - torch.minimum(boxes[..., 1], others[..., 1])
    hull = (width.clamp(min=0) * height.clamp(min=0)).clamp(min=SMALLEST)
    return intersection / union - (hull - union) / hull


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 − GIoU of each box and its target, (…)."""
    return 1 - giou(boxes, targets)


def _intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    # By coordinates: for all pairs, tensors (N, M, 2) would be twice as large.
    width = torch.minimum(boxes[..., 2], others[..., 2]) - torch.maximum(boxes[..., 0], others[..., 0])
    height = torch.minimum(boxes[..., 3], others[..., 3]) - torch.maximum(boxes[..., 1], others[..., 1])
    intersection = width.clamp(min=0) * height.clamp(min=0)
    return intersection, (area(boxes) + area(others) - intersection).clamp(min=SMALLEST)


def area(boxes: Tensor) -> Tensor:
    """Areas of boxes (…, 4) in pixels², (…)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Tensor, size: Tensor | Sequence[int]) -> Tensor:
    """Boxes (…, 4), moved into an image of a size: (height, width), or a tensor (…, 2) of them that broadcasts."""
    limits = torch.as_tensor(size, dtype=boxes.dtype, device=boxes.device).flip(-1)  # x, y
    return torch.minimum(boxes.clamp(min=0), torch.cat([limits, limits], -1))


def encode(references: Tensor, boxes: Tensor, scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The codes of boxes relative to reference boxes, both (…, 4): (…, 4), in float32 at least.

    A code is the distance of the centres in sides of the reference, x and y, and the logarithm of the ratio of the
    sides, width and height, each divided by its scale. Source: arXiv 1311.2524, appendix C.
    """
    centres, sides = _centres_and_sides(upcast(references))
    box_centres, box_sides = _centres_and_sides(upcast(boxes))
    codes = torch.cat([(box_centres - centres) / sides, (box_sides / sides).log()], -1)
    return codes / codes.new_tensor(scales)


def decode(
    references: Tensor,
    codes: Tensor,
    scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    size: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """The boxes whose codes relative to reference boxes are given: the inverse of `encode`, (…, 4).

    Sides grow or shrink by at most 1000 / 16.

    Args:
        references: (…, 4); they broadcast with the codes, such as (N, 1, 4) with (N, classes, 4).
        codes: (…, 4).
        scales: as in `encode`.
        size: (height, width) of the image, to which the boxes are clipped (see `clip`); None: they are not.
    """
    codes = upcast(codes)
    steps, growth = (codes * codes.new_tensor(scales)).split(2, -1)
    centres, sides = _centres_and_sides(upcast(references))
    centres = centres + sides * steps
    halves = sides * growth.clamp(-LARGEST_GROWTH, LARGEST_GROWTH).exp() * 0.5
    boxes = torch.cat([centres - halves, centres + halves], -1)
    return boxes if size is None else clip(boxes, size)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) and (width, height), (…, 2) each."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
