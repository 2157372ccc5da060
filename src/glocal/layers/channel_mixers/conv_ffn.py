"""Feed-forward networks with a depthwise 3×3 convolution between their two linear layers."""

import torch.nn as nn
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d, PointwiseConv2d


class ConvFFN(nn.Module):
    """pw → depthwise 3×3 → GELU → pw (VAN, arXiv 2202.09741)."""

    input_conv, output_conv = "fc1", "fc2"

    def __init__(self, dim: int, expansion: float = 4.0, proj_drop: float = 0.0):
        super().__init__()
        hidden = int(dim * expansion)
        self.fc1 = PointwiseConv2d(dim, hidden)
        self.conv = DepthwiseConv2d(hidden, 3)
        self.fc2 = PointwiseConv2d(hidden, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.conv(self.fc1(x), gelu=True))))


class ResidualConvFFN(nn.Module):
    """pw → GELU → y + GELU(depthwise 3×3(y)) → pw (Conv2Former, arXiv 2211.11943)."""

    input_conv, output_conv = "fc1", "fc2"

    def __init__(self, dim: int, expansion: float = 4.0, proj_drop: float = 0.0):
        super().__init__()
        hidden = int(dim * expansion)
        self.fc1 = PointwiseConv2d(dim, hidden)
        self.conv = DepthwiseConv2d(hidden, 3)
        self.fc2 = PointwiseConv2d(hidden, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x, gelu=True)
        return self.drop(self.fc2(self.drop(self.conv(x, gelu=True, residual=x))))
