"""The two convolutions that every mixer is made of."""

import torch
import torch.nn as nn
from timm.layers import register_notrace_module
from torch import Tensor

from glocal.ops import depthwise_conv, pointwise_conv
from glocal.ops.dispatch import exporting, takes_cpu


@register_notrace_module
class DepthwiseConv2d(nn.Conv2d):
    """Depthwise k×k convolution, stride 1, zero padding that keeps the size.

    `forward` also takes what follows the convolution, so that a kernel may do it at once: see `ops.depthwise_conv`.
    """

    def __init__(self, dim: int, kernel_size: int, dilation: int = 1, bias: bool = True):
        padding = dilation * (kernel_size // 2)
        super().__init__(dim, dim, kernel_size, padding=padding, dilation=dilation, groups=dim, bias=bias)

    def forward(
        self, x: Tensor, gelu: bool = False, residual: Tensor | None = None, factor: Tensor | None = None
    ) -> Tensor:
        return depthwise_conv(x, self.weight, self.bias, self.dilation[0], gelu, residual, factor)


@register_notrace_module
class PointwiseConv2d(nn.Conv2d):
    """A 1×1 convolution: one linear layer for every position. `forward` also takes the GELU after it."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True):
        super().__init__(in_dim, out_dim, 1, bias=bias)

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        return pointwise_conv(x, self.weight, self.bias, gelu)

    def halves(self, x: Tensor, convolved: bool = False) -> tuple[Tensor, Tensor]:
        """The two halves of the output's channels. convolved: whether a convolution takes one of them."""
        bias = self.bias
        apart = exporting()  # runtimes copy the parts of a map that they split
        if not torch.jit.is_scripting():
            apart = apart or (convolved and takes_cpu(x))  # so do convolutions on a CPU
        if apart and bias is not None:
            first, second = self.weight.chunk(2)
            first_bias, second_bias = bias.chunk(2)
            return pointwise_conv(x, first, first_bias), pointwise_conv(x, second, second_bias)
        first, second = pointwise_conv(x, self.weight, self.bias).chunk(2, dim=1)
        return first, second
