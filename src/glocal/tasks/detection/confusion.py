"""Which objects of an image are found, taken for another class, missed, or not there."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

IOU = 0.5  # from which on a box is of an object


class Counts(NamedTuple):
    """Of an image. confusion: (C + 1, C + 1) int64, objects by their class and the class that was found; the last row
    is for what is no object, the last column for objects that are missed. f1: in percent.
    """

    confusion: Tensor
    f1: float


def counts(boxes: Tensor, labels: Tensor, target: dict[str, Tensor], classes: int) -> Counts:
    """Compare the boxes (N, 4) and labels (N,) that are found in an image, the surest first, with its objects.

    Each object is given to the surest box of its class with an IoU of at least 0.5, the best of those that are left;
    then, what is left on both sides, whatever the class. A box without an object counts nowhere if half of it lies in a
    crowd. f1 is the number of boxes and objects that are right, by all boxes and objects; 100 if there is neither.
    """
    crowd = target["crowd"]
    objects, wanted = target["boxes"][~crowd], target["labels"][~crowd]
    overlap = box_iou(boxes, objects)
    same = labels[:, None] == wanted
    right = given(torch.where(same, overlap, 0.0))
    left_boxes, left_objects = right < 0, torch.ones(len(objects), dtype=torch.bool)
    left_objects[right[right >= 0]] = False
    other = given(overlap * (left_boxes[:, None] & left_objects))
    pair = torch.where(right >= 0, right, other)
    ignored = (pair < 0) & inside(boxes, target["boxes"][crowd])
    missed = torch.ones(len(objects), dtype=torch.bool)
    missed[pair[pair >= 0]] = False

    truth = torch.full_like(labels, classes)
    truth[pair >= 0] = wanted[pair[pair >= 0]]
    rows = torch.cat([truth[~ignored], wanted[missed]])
    columns = torch.cat([labels[~ignored], torch.full_like(wanted[missed], classes)])
    size = classes + 1
    confusion = (rows * size + columns).bincount(minlength=size * size).view(size, size)
    whole = int((~ignored).sum()) + len(objects)
    return Counts(confusion, 100 * 2 * int((right >= 0).sum()) / whole if whole else 100.0)


def given(overlap: Tensor) -> Tensor:
    """(N,) int64: the object of each box, the best that is left, or -1. overlap: (N, M), of boxes in their order."""
    found = torch.full((len(overlap),), -1)
    if overlap.numel():
        overlap = overlap.clone()
        for row in (overlap >= IOU).any(1).nonzero()[:, 0].tolist():
            value, place = overlap[row].max(0)
            if value >= IOU:
                found[row] = place
                overlap[:, place] = 0
    return found


def inside(boxes: Tensor, crowds: Tensor) -> Tensor:
    """(N,) bool: whether half of a box (N, 4) lies in one of the crowds (M, 4)."""
    first, last = torch.maximum(boxes[:, None, :2], crowds[:, :2]), torch.minimum(boxes[:, None, 2:], crowds[:, 2:])
    shared = (last - first).clamp(min=0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (shared >= 0.5 * areas[:, None]).any(1)
