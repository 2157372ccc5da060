"""Large kernel attention (VAN, arXiv 2202.09741, eq. 2-3)."""

import torch.nn as nn
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d, PointwiseConv2d


class LargeKernelAttention(nn.Module):
    """x + proj(LKA(GELU(pw(x)))), LKA(u) = u · pw(depthwise 7×7 dilation 3(depthwise 5×5(u))).

    The two depthwise convolutions stand for one of 21×21.
    """

    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__()
        self.expand = PointwiseConv2d(dim, dim)
        self.act = nn.GELU()
        self.attention = nn.Sequential(
            DepthwiseConv2d(dim, 5), DepthwiseConv2d(dim, 7, dilation=3), PointwiseConv2d(dim, dim)
        )
        self.proj = PointwiseConv2d(dim, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        u = self.act(self.expand(x))
        return x + self.drop(self.proj(u * self.attention(u)))
