"""Pure-PyTorch sampling of maps at points."""

import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    grid = (2 * points - 1).unsqueeze(1)  # (B, 1, P, 2)
    return F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False).squeeze(2)
