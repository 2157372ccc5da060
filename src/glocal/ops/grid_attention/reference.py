"""Pure-PyTorch grid attention."""

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_attention(q: Tensor, k: Tensor, v: Tensor, grid: int) -> Tensor:
    batch, heads, width_per_head, height, width = q.shape
    pad_bottom, pad_right = -height % grid, -width % grid
    rows, columns = (height + pad_bottom) // grid, (width + pad_right) // grid

    mask: Tensor | None = None
    if pad_bottom > 0 or pad_right > 0:
        real = torch.ones(1, 1, 1, height, width, dtype=torch.bool, device=q.device)
        mask = split_cells(pad(real, pad_bottom, pad_right), grid)  # (cells, 1, g², 1)
        mask = mask.transpose(-2, -1).repeat(batch, 1, 1, 1)  # (B·cells, 1, 1, g²): which keys are real
    q = split_cells(pad(q, pad_bottom, pad_right), grid)
    k = split_cells(pad(k, pad_bottom, pad_right), grid)
    v = split_cells(pad(v, pad_bottom, pad_right), grid)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B·cells, heads, g², d)

    out = out.reshape(batch, rows, columns, heads, grid, grid, width_per_head)
    out = out.permute(0, 3, 6, 1, 4, 2, 5)  # (B, heads, d, rows, g, columns, g)
    out = out.reshape(batch, heads, width_per_head, rows * grid, columns * grid)
    return out[..., :height, :width]


def pad(x: Tensor, bottom: int, right: int) -> Tensor:
    return F.pad(x, [0, right, 0, bottom]) if bottom > 0 or right > 0 else x


def split_cells(x: Tensor, grid: int) -> Tensor:
    """(B, heads, d, H, W) → (B·cells, heads, g², d), cells in row-major order."""
    batch, heads, d, height, width = x.shape
    x = x.reshape(batch, heads, d, height // grid, grid, width // grid, grid)
    x = x.permute(0, 3, 5, 1, 4, 6, 2)  # (B, rows, columns, heads, g, g, d)
    return x.reshape(batch * (height // grid) * (width // grid), heads, grid * grid, d)
