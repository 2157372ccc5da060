"""Convolution modulation (Conv2Former, arXiv 2211.11943, eq. 3-5)."""

import torch.nn as nn
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d, PointwiseConv2d


class ConvModulation(nn.Module):
    """proj(depthwise k×k(GELU(pw(x))) · pw(x)): a large-kernel convolution in the place of the attention matrix."""

    output_conv = "proj"

    def __init__(self, dim: int, kernel_size: int = 11, proj_drop: float = 0.0):
        super().__init__()
        self.query = PointwiseConv2d(dim, dim)
        self.conv = DepthwiseConv2d(dim, kernel_size)
        self.value = PointwiseConv2d(dim, dim)
        self.proj = PointwiseConv2d(dim, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.query(x, gelu=True)
        return self.drop(self.proj(self.conv(y, factor=self.value(x))))
