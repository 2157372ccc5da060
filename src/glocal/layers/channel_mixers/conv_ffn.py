"""Feed-forward networks with a depthwise 3×3 convolution between their two linear layers."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, pointwise


class ConvFFN(nn.Module):
    """pw → depthwise 3×3 → GELU → pw (VAN, arXiv 2202.09741)."""

    input_conv, output_conv = "fc1", "fc2"

    def __init__(self, dim: int, expansion: float = 4.0, proj_drop: float = 0.0):
        super().__init__()
        hidden = int(dim * expansion)
        self.fc1 = pointwise(dim, hidden)
        self.conv = depthwise(hidden, 3)
        self.fc2 = pointwise(hidden, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.drop(self.fc2(self.drop(F.gelu(self.conv(self.fc1(x))))))
        else:
            x = convolve(self.conv, convolve(self.fc1, x), gelu=True)
            return self.drop(convolve(self.fc2, self.drop(x)))


class ResidualConvFFN(ConvFFN):
    """pw → GELU → y + GELU(depthwise 3×3(y)) → pw (Conv2Former, arXiv 2211.11943)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            x = F.gelu(self.fc1(x))
            return self.drop(self.fc2(self.drop(x + F.gelu(self.conv(x)))))
        else:
            x = convolve(self.fc1, x, gelu=True)
            return self.drop(convolve(self.fc2, self.drop(convolve(self.conv, x, gelu=True, residual=x))))
