"""Aggregated attention and the last stage's cosine attention (TransNeXt, arXiv 2311.17132)."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor

from glocal.layers.conv import convolve, halves, is_pointwise, pointwise, split_heads
from glocal.layers.graph import leaf
from glocal.layers.norm import LayerNorm2d
from glocal.layers.position import LogCPB
from glocal.ops import (
    adaptive_average_pool,
    aggregated_attention,
    cosine_attention,
    pointwise_conv,
    pooled_side,
    recompute_large_map,
)


class LengthScaledQuery(nn.Module):
    """What both attentions of TransNeXt share: heads, the query embedding and the learned temperature.

    The temperature starts where softplus gives 1 / 0.24; the query embedding with std 0.02.
    """

    output_conv = "proj"

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"dim {dim} is not a multiple of head_dim {head_dim}")
        self.num_heads, self.head_dim = dim // head_dim, head_dim
        self.temperature = nn.Parameter(torch.empty(self.num_heads))
        self.query_embedding = nn.Parameter(torch.empty(self.num_heads, head_dim))

    def reset_parameters(self):
        nn.init.constant_(self.temperature, math.log(math.expm1(1 / 0.24)))
        trunc_normal_(self.query_embedding, std=0.02)


@leaf
class AggregatedAttention(LengthScaledQuery):
    """Every position attends to its 3×3 neighbourhood and to a pooled map, in one softmax.

    Args:
        dim: channels, a multiple of `head_dim`.
        pretrain_size: side of the stage's map in pre-training (S₀).
        reduction: the pooled map is (H // reduction, W // reduction), at least 1×1.
        pool_size: a fixed side of the pooled map instead: cost linear in pixels ("linear mode").
        base_size: (H, W) at which the position bias is computed before it is resized ("interpolation" mode); None
            computes it at the size at hand ("extrapolation").
        head_dim: width of a head, 24 in the paper.
    """

    def __init__(
        self,
        dim: int,
        pretrain_size: int,
        reduction: int,
        pool_size: int | None = None,
        base_size: tuple[int, int] | None = None,
        head_dim: int = 24,
        proj_drop: float = 0.0,
    ):
        super().__init__(dim, head_dim)
        self.reduction = reduction
        self.pool_size = pool_size if pool_size is not None else 0
        self.q = pointwise(dim, dim)
        self.kv = pointwise(dim, 2 * dim)
        self.pool_proj = pointwise(dim, dim)
        self.pool_norm = LayerNorm2d(dim, eps=1e-5)
        base = None if base_size is None else (*base_size, *self.pooled_size(*base_size))
        self.position = LogCPB(self.num_heads, pretrain_size, base)
        self.local_bias = nn.Parameter(torch.empty(self.num_heads, 9))
        self.tokens = nn.Parameter(torch.empty(self.num_heads, head_dim, 9))
        self.token_bias = nn.Parameter(torch.empty(self.num_heads, 9))
        self.proj = pointwise(dim, dim)
        self.drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self):
        super().reset_parameters()
        trunc_normal_(self.local_bias, std=0.0004)
        trunc_normal_(self.tokens, std=0.02)
        nn.init.zeros_(self.token_bias)

    def pooled_size(self, height: int, width: int) -> tuple[int, int]:
        if self.pool_size > 0:
            return self.pool_size, self.pool_size
        return pooled_side(height, self.reduction), pooled_side(width, self.reduction)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        pooled_height, pooled_width = self.pooled_size(height, width)
        if torch.jit.is_scripting():
            q, pooled = self.q(x), F.gelu(self.pool_proj(x))
            pooled = adaptive_average_pool(pooled, pooled_height, pooled_width)
            k, v = self.kv(x).chunk(2, dim=1)
        else:
            q, pooled = convolve(self.q, x), self.pooled(x, pooled_height, pooled_width)
            k, v = halves(self.kv, x)
        pooled = self.pool_norm(pooled)
        pooled = self.kv(pooled) if torch.jit.is_scripting() else convolve(self.kv, pooled)
        pooled_k, pooled_v = split_heads(pooled, self.head_dim).flatten(3).chunk(2, dim=1)
        position, rows, columns = self.position(height, width, pooled_height, pooled_width, self.temperature)
        if rows is None:  # it is no table
            position = position.transpose(1, 2)
        x = aggregated_attention(
            split_heads(q, self.head_dim),
            split_heads(k, self.head_dim),
            split_heads(v, self.head_dim),
            pooled_k,
            pooled_v,
            self.query_embedding,
            F.softplus(self.temperature),
            self.local_bias,
            position,
            self.tokens,
            self.token_bias,
            rows,
            columns,
        ).reshape(x.shape)
        return self.drop(self.proj(x) if torch.jit.is_scripting() else convolve(self.proj, x))

    @torch.jit.unused
    def pooled(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Projected, through GELU, averaged to rows × columns; of a large map autograd keeps none of the steps."""
        if not is_pointwise(self.pool_proj):
            return adaptive_average_pool(convolve(self.pool_proj, x, gelu=True), rows, columns)

        def steps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return adaptive_average_pool(pointwise_conv(x, weight, bias, gelu=True), rows, columns)

        return recompute_large_map(steps, x, self.pool_proj.weight, self.pool_proj.bias)


@leaf
class CosineAttention(LengthScaledQuery):
    """Length-scaled cosine attention between all positions, with a log-CPB bias: TransNeXt's last stage.

    Arguments as in `AggregatedAttention`.
    """

    def __init__(
        self,
        dim: int,
        pretrain_size: int,
        base_size: tuple[int, int] | None = None,
        head_dim: int = 24,
        proj_drop: float = 0.0,
    ):
        super().__init__(dim, head_dim)
        self.qkv = pointwise(dim, 3 * dim)
        self.position = LogCPB(self.num_heads, pretrain_size, None if base_size is None else (*base_size, *base_size))
        self.proj = pointwise(dim, dim)
        self.drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        qkv = self.qkv(x) if torch.jit.is_scripting() else convolve(self.qkv, x)
        position, rows, columns = self.position(height, width, height, width, self.temperature)
        if rows is None:  # it is no table
            position = position.unsqueeze(0)
        x = cosine_attention(qkv, self.query_embedding, F.softplus(self.temperature), position, rows, columns)
        return self.drop(self.proj(x) if torch.jit.is_scripting() else convolve(self.proj, x))
