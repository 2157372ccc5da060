"""Pure-PyTorch deformable attention: torch samples each map at all places."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(values: Tensor, sizes: Sequence[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, dim = values.shape
    queries = places.shape[1]
    dtype = torch.promote_types(values.dtype, places.dtype)
    values, places = values.to(dtype), places.to(dtype)
    grids = (2 * places - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (B·heads, levels, Q, points, 2)
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)  # (B·heads, levels, Q, points)
    maps = values.permute(0, 2, 3, 1).flatten(0, 1)  # (B·heads, d, N)
    total = torch.zeros((), dtype=values.dtype, device=values.device)
    start = 0
    for level, (height, width) in enumerate(sizes):
        level_map = maps[:, :, start : start + height * width].reshape(batch * heads, dim, height, width)
        sampled = F.grid_sample(level_map, grids[:, level], padding_mode="zeros", align_corners=False)
        total = total + (sampled * weights[:, level].unsqueeze(1)).sum(-1)  # (B·heads, d, Q)
        start += height * width
    return total.reshape(batch, heads * dim, queries).transpose(1, 2)
