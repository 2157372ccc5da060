"""Pure-PyTorch grid attention."""

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_attention(q: Tensor, k: Tensor, v: Tensor, grid: int) -> Tensor:
    # a cell larger than the map would hold padding only
    return attend_in_cells(q, k, v, min(grid, q.shape[-2]), min(grid, q.shape[-1]))


def attend_in_cells(q: Tensor, k: Tensor, v: Tensor, down: int, across: int, always_pad: bool = False) -> Tensor:
    """Attention within cells of down × across positions. always_pad: also if nothing is missing from a cell."""
    batch, heads, width_per_head, height, width = q.shape
    rows, columns = (height + down - 1) // down, (width + across - 1) // across
    pad_bottom, pad_right = rows * down - height, columns * across - width

    mask: Tensor | None = None
    if always_pad or pad_bottom > 0 or pad_right > 0:
        real = torch.ones(1, 1, 1, height, width, dtype=torch.bool, device=q.device)
        mask = split_cells(F.pad(real, [0, pad_right, 0, pad_bottom]), down, across)  # (cells, 1, g², 1)
        mask = mask.transpose(-2, -1).repeat(batch, 1, 1, 1)  # (B·cells, 1, 1, g²): which keys are real
        q = F.pad(q, [0, pad_right, 0, pad_bottom])
        k = F.pad(k, [0, pad_right, 0, pad_bottom])
        v = F.pad(v, [0, pad_right, 0, pad_bottom])
    q, k, v = split_cells(q, down, across), split_cells(k, down, across), split_cells(v, down, across)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B·cells, heads, g², d)

    out = out.reshape(batch, rows, columns, heads, down, across, width_per_head)
    out = out.permute(0, 1, 4, 2, 5, 3, 6)  # (B, rows, g, columns, g, heads, d)
    out = out.reshape(batch, rows * down, columns * across, heads, width_per_head)[:, :height, :width]
    return out.permute(0, 3, 4, 1, 2)  # in memory the channels of a position stay together


def split_cells(x: Tensor, down: int, across: int) -> Tensor:
    """(B, heads, d, H, W) → (B·cells, heads, g², d), cells of down × across positions in row-major order."""
    batch, heads, d, height, width = x.shape
    rows, columns = height // down, width // across
    x = x.reshape(batch, heads, d, rows, down, columns, across)
    x = x.permute(0, 3, 5, 1, 4, 6, 2)  # (B, rows, columns, heads, g, g, d)
    return x.reshape(batch * rows * columns, heads, down * across, d)
