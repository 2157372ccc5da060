"""Attention inside the cells of a grid (the first step of H-MHSA)."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.grid_attention import graph, reference

__all__ = ["grid_attention"]

NO_KERNEL = "its cells are a batch for torch's attention"


def grid_attention(q: Tensor, k: Tensor, v: Tensor, grid: int) -> Tensor:
    """Attend within non-overlapping grid×grid cells, scale d^-0.5.

    The map is padded at the right and bottom up to a multiple of `grid`; a padded position is no key for a real one
    and is cropped from the result, so it never influences a real position.

    Args:
        q, k, v: (B, heads, d, H, W).
        grid: side of a cell, in positions.

    Returns:
        (B, heads, d, H, W).

    Source: arXiv 2106.03180, the small-grid step of H-MHSA.
    """
    if not torch.jit.is_scripting():
        if dispatch.tracing():
            return graph.grid_attention(q, k, v, grid)
        if dispatch.sizes_are_open():  # torch.compile makes another graph if a map needs padding
            return reference.attend_in_cells(q, k, v, grid, grid)
    return reference.grid_attention(q, k, v, grid)
