"""ConvGLU (TransNeXt, arXiv 2311.17132, section 3.5)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, halves, is_depthwise, is_pointwise, pointwise
from glocal.layers.graph import leaf
from glocal.ops import depthwise_conv, pointwise_of_large_map


@leaf
class ConvGLU(nn.Module):
    """(g, v) = pw(x); pw(GELU(depthwise 3×3(g)) · v): a gate that sees its neighbours.

    The hidden width is int(2/3 · expansion · dim).
    """

    input_conv, output_conv = "fc1", "fc2"

    def __init__(self, dim: int, expansion: float = 4.0, proj_drop: float = 0.0):
        super().__init__()
        hidden = int(2 / 3 * expansion * dim)
        self.fc1 = pointwise(dim, 2 * hidden)
        self.conv = depthwise(hidden, 3)
        self.fc2 = pointwise(hidden, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            gate, value = self.fc1(x).chunk(2, dim=1)
            return self.drop(self.fc2(self.drop(F.gelu(self.conv(gate)) * value)))
        else:
            gate, value = halves(self.fc1, x, convolved=True)
            if self.drop.p == 0 and is_depthwise(self.conv) and is_pointwise(self.fc2):
                arguments = gate, value, self.conv.weight, self.conv.bias
                return pointwise_of_large_map(gated, *arguments, weight=self.fc2.weight, bias=self.fc2.bias)
            x = convolve(self.conv, gate, gelu=True, factor=value)
            return self.drop(convolve(self.fc2, self.drop(x)))


def gated(gate: Tensor, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU(depthwise(gate)) · value."""
    return depthwise_conv(gate, weight, bias, gelu=True, factor=value)
