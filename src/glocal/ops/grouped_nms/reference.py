"""Non-maximum suppression in groups, by torchvision."""

from torch import Tensor
from torchvision.ops import batched_nms


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    return batched_nms(boxes, scores, groups, threshold)
