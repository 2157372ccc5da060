"""Of many boxes the few that are detections: the best scores, each object once."""

from typing import NamedTuple

from torch import Tensor

from glocal.ops import grouped_nms


class Pairs(NamedTuple):
    """Pairs of a box and a class: scores (N,), descending; the indices of the box and of the class, (N,) int64."""

    scores: Tensor
    boxes: Tensor
    classes: Tensor


def best_pairs(scores: Tensor, threshold: float, count: int | None = None) -> Pairs:
    """The pairs of a box and a class with scores above a threshold, the best first; a box may be in several.

    NaN counts as above, so that a model whose values are not numbers does not seem to find nothing.

    scores: (boxes, classes), probabilities or logits. count: pairs at most; None: all.
    """
    boxes, classes = (~(scores <= threshold)).nonzero(as_tuple=True)
    chosen, order = scores[boxes, classes].sort(descending=True)  # ONNX has no stable sort
    return Pairs(chosen[:count], boxes[order[:count]], classes[order[:count]])


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, count: int | None = None) -> Tensor:
    """Indices of the boxes that stay, by descending score: none overlaps a better one of its group by more.

    Args:
        boxes: (N, 4), with no coordinate below 0.
        scores: (N,).
        groups: (N,) int64: classes or levels, which do not suppress each other.
        threshold: the IoU from which a box is suppressed, exclusive.
        count: boxes at most; None: all.
    """
    return grouped_nms(boxes, scores, groups, threshold)[:count]
