"""ConvGLU (TransNeXt, arXiv 2311.17132, section 3.5)."""

import torch.nn as nn
from timm.layers import register_notrace_module
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d, PointwiseConv2d


@register_notrace_module
class ConvGLU(nn.Module):
    """(g, v) = pw(x); pw(GELU(depthwise 3×3(g)) · v): a gate that sees its neighbours.

    The hidden width is int(2/3 · expansion · dim).
    """

    input_conv, output_conv = "fc1", "fc2"

    def __init__(self, dim: int, expansion: float = 4.0, proj_drop: float = 0.0):
        super().__init__()
        hidden = int(2 / 3 * expansion * dim)
        self.fc1 = PointwiseConv2d(dim, 2 * hidden)
        self.conv = DepthwiseConv2d(hidden, 3)
        self.fc2 = PointwiseConv2d(hidden, dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1.halves(x, convolved=True)
        return self.drop(self.fc2(self.drop(self.conv(gate, gelu=True, factor=value))))
