"""Pure-PyTorch sampling of maps at points."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    dtype = torch.promote_types(maps.dtype, points.dtype)
    grid = (2 * points.to(dtype) - 1).unsqueeze(1)  # (B, 1, P, 2)
    return F.grid_sample(maps.to(dtype), grid, padding_mode="zeros", align_corners=False).squeeze(2)
