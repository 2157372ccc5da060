"""Pure-PyTorch grid attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch


def grid_attention(q: Tensor, k: Tensor, v: Tensor, grid: int) -> Tensor:
    batch, heads, width_per_head, height, width = q.shape
    down, across = grid, grid
    if torch.jit.is_scripting() or not (
        torch.compiler.is_compiling() or dispatch.tracing()
    ):  # else the graph shall take other sizes too
        down, across = min(grid, height), min(grid, width)  # a cell larger than the map would hold padding only
    rows, columns = (height + down - 1) // down, (width + across - 1) // across
    pad_bottom, pad_right = rows * down - height, columns * across - width

    mask: Tensor | None = None
    if dispatch.tracing() or pad_bottom > 0 or pad_right > 0:
        real = torch.ones(1, 1, 1, height, width, dtype=torch.bool, device=q.device)
        mask = split_cells(pad(real, pad_bottom, pad_right), down, across)  # (cells, 1, g², 1)
        mask = mask.transpose(-2, -1).repeat(batch, 1, 1, 1)  # (B·cells, 1, 1, g²): which keys are real
    q = split_cells(pad(q, pad_bottom, pad_right), down, across)
    k = split_cells(pad(k, pad_bottom, pad_right), down, across)
    v = split_cells(pad(v, pad_bottom, pad_right), down, across)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B·cells, heads, g², d)

    out = out.reshape(batch, rows, columns, heads, down, across, width_per_head)
    out = out.permute(0, 1, 4, 2, 5, 3, 6)  # (B, rows, g, columns, g, heads, d)
    out = out.reshape(batch, rows * down, columns * across, heads, width_per_head)[:, :height, :width]
    return out.permute(0, 3, 4, 1, 2)  # in memory the channels of a position stay together


def pad(x: Tensor, bottom: int, right: int) -> Tensor:
    return F.pad(x, [0, right, 0, bottom]) if dispatch.tracing() or bottom > 0 or right > 0 else x


def split_cells(x: Tensor, down: int, across: int) -> Tensor:
    """(B, heads, d, H, W) → (B·cells, heads, g², d), cells of down × across positions in row-major order."""
    batch, heads, d, height, width = x.shape
    rows, columns = height // down, width // across
    x = x.reshape(batch, heads, d, rows, down, columns, across)
    x = x.permute(0, 3, 5, 1, 4, 6, 2)  # (B, rows, columns, heads, g, g, d)
    return x.reshape(batch * rows * columns, heads, down * across, d)
