"""Convolution modulation (Conv2Former, arXiv 2211.11943, eq. 3-5)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, pointwise


class ConvModulation(nn.Module):
    """proj(depthwise k×k(GELU(pw(x))) · pw(x)): a large-kernel convolution in the place of the attention matrix."""

    output_conv = "proj"

    def __init__(self, dim: int, kernel_size: int = 11, proj_drop: float = 0.0):
        super().__init__()
        self.query = pointwise(dim, dim)
        self.conv = depthwise(dim, kernel_size)
        self.value = pointwise(dim, dim)
        self.proj = pointwise(dim, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.drop(self.proj(self.conv(F.gelu(self.query(x))) * self.value(x)))
        else:
            y = convolve(self.query, x, gelu=True)
            y = convolve(self.conv, y, factor=convolve(self.value, x))
            return self.drop(convolve(self.proj, y))
