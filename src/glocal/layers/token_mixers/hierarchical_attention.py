"""H-MHSA: attention within grid cells, then of all positions over pooled ones (HAT-Net, arXiv 2106.03180)."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, pointwise, split_heads
from glocal.layers.fusion import absorb_input_norm
from glocal.layers.graph import leaf
from glocal.ops import adaptive_average_pool, grid_attention, pooled_side


@leaf
class HierarchicalAttention(nn.Module):
    """Two-step H-MHSA, or plain global attention with a grid of 1. The norms are inside: it takes the raw block input.

    Args:
        dim: channels, a multiple of `head_dim`.
        head_dim: width of a head.
        grid: side of a grid cell; 1 attends globally in one step.
        reduction: pooling of the second step's keys; at least 1 stays along each axis.
        norm: built as `norm(dim)`.
    """

    output_conv = "proj"

    def __init__(
        self,
        dim: int,
        head_dim: int,
        grid: int,
        reduction: int,
        norm: Callable[[int], nn.Module],
        proj_drop: float = 0.0,
    ):
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"dim {dim} is not a multiple of head_dim {head_dim}")
        self.head_dim = head_dim
        self.grid = grid
        self.reduction = reduction
        self.norm = norm(dim)
        self.qkv = pointwise(dim, 3 * dim)
        if grid > 1:
            self.grid_norm = norm(dim)
            self.q = pointwise(dim, dim)
            self.pool_norm = norm(dim)
            self.kv = pointwise(dim, 2 * dim)
        else:
            self.grid_norm = self.q = self.pool_norm = self.kv = nn.Identity()
        self.proj = pointwise(dim, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y = self.qkv(y) if torch.jit.is_scripting() else convolve(self.qkv, y)
        q, k, v = split_heads(y, self.head_dim).chunk(3, dim=1)
        if self.grid > 1:
            x = self.grid_norm(x + grid_attention(q, k, v, self.grid).reshape(x.shape))
            height, width = pooled_side(x.shape[-2], self.reduction), pooled_side(x.shape[-1], self.reduction)
            pooled = self.pool_norm(adaptive_average_pool(x, height, width))
            if torch.jit.is_scripting():
                q, pooled = self.q(x), self.kv(pooled)
            else:
                q, pooled = convolve(self.q, x), convolve(self.kv, pooled)
            k, v = split_heads(pooled, self.head_dim).chunk(2, dim=1)
            x = x + global_attention(split_heads(q, self.head_dim), k, v).reshape(x.shape)
        else:
            x = global_attention(q, k, v).reshape(x.shape)
        return self.drop(self.proj(x) if torch.jit.is_scripting() else convolve(self.proj, x))

    def reparameterize(self):
        self.norm = absorb_input_norm(self.norm, self.qkv)
        if self.grid > 1:
            self.pool_norm = absorb_input_norm(self.pool_norm, self.kv)


def global_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of all positions of q, (B, heads, d, H, W), over all of k and v, (B, heads, d, h, w); scale d^-0.5."""
    q, k, v = q.flatten(3).transpose(2, 3), k.flatten(3).transpose(2, 3), v.flatten(3).transpose(2, 3)
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)  # (B, heads, d, H·W)
