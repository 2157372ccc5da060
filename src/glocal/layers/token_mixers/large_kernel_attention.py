"""Large kernel attention (VAN, arXiv 2202.09741, eq. 2-3)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, in_turn, pointwise


class LargeKernelAttention(nn.Module):
    """x + proj(LKA(GELU(pw(x)))), LKA(u) = u · pw(depthwise 7×7 dilation 3(depthwise 5×5(u))).

    The two depthwise convolutions stand for one of 21×21.
    """

    output_conv = "proj"

    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__()
        self.expand = pointwise(dim, dim)
        self.attention = nn.Sequential(depthwise(dim, 5), depthwise(dim, 7, dilation=3), pointwise(dim, dim))
        self.proj = pointwise(dim, dim)
        self.drop = nn.Dropout(proj_drop)
        self.register_parameter("input_scale", None)  # of x, once a LayerScale has been merged

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            u = F.gelu(self.expand(x))
            y = self.proj(u * self.attention(u))
        else:
            u = convolve(self.expand, x, gelu=True)
            y = convolve(self.proj, u * in_turn(self.attention, u))
        y = self.drop(y)
        return x + y if self.input_scale is None else torch.addcmul(y, x, self.input_scale)

    def scale_input(self, weight: Tensor):
        self.input_scale = nn.Parameter(weight.detach().clone(), weight.requires_grad)
