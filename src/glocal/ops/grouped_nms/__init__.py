"""Non-maximum suppression: of boxes that overlap, the one with the highest score stays."""

from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.grouped_nms import graph, reference

__all__ = ["grouped_nms"]

NO_KERNEL = "torchvision has one"


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that stay, by descending score: none overlaps a better one of its group by more.

    Args:
        boxes: (N, 4), x1, y1, x2, y2, with no coordinate below 0.
        scores: (N,).
        groups: (N,) int64, from 0: boxes of different groups, such as classes, do not suppress each other.
        threshold: the IoU from which a box is suppressed, exclusive.

    Returns:
        (kept,) int64.
    """
    if dispatch.exporting():
        return graph.grouped_nms(boxes, scores, groups, threshold)
    return reference.grouped_nms(boxes, scores, groups, threshold)
