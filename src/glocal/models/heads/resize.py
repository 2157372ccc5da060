"""Bilinear resizing, as all heads do it."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) at another (H, W), bilinear, with the borders of the images aligned (align_corners=False)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
