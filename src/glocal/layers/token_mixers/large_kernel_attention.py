"""Large kernel attention (VAN, arXiv 2202.09741, eq. 2-3)."""

import torch
import torch.nn as nn
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d, PointwiseConv2d


class LargeKernelAttention(nn.Module):
    """x + proj(LKA(GELU(pw(x)))), LKA(u) = u · pw(depthwise 7×7 dilation 3(depthwise 5×5(u))).

    The two depthwise convolutions stand for one of 21×21.
    """

    output_conv = "proj"

    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__()
        self.expand = PointwiseConv2d(dim, dim)
        self.attention = nn.Sequential(
            DepthwiseConv2d(dim, 5), DepthwiseConv2d(dim, 7, dilation=3), PointwiseConv2d(dim, dim)
        )
        self.proj = PointwiseConv2d(dim, dim)
        self.drop = nn.Dropout(proj_drop)
        self.register_parameter("input_scale", None)  # of x, where a LayerScale has been merged

    def forward(self, x: Tensor) -> Tensor:
        u = self.expand(x, gelu=True)
        y = self.drop(self.proj(u * self.attention(u)))
        return x + y if self.input_scale is None else torch.addcmul(y, x, self.input_scale)

    def scale_input(self, weight: Tensor):
        self.input_scale = nn.Parameter(weight.detach().clone(), weight.requires_grad)
