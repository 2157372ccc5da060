"""The two convolutions that every mixer is made of."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor

from glocal.ops import depthwise_conv
from glocal.ops.dispatch import takes_cpu


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
    """A 1×1 convolution: one linear layer for every position."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True):
        super().__init__(in_dim, out_dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
            if linear_is_faster(x):
                return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias)


def linear_is_faster(x: Tensor) -> bool:
    """Whether a linear layer computes a 1×1 convolution faster: on a CPU, on the smaller maps in channels_last."""
    return takes_cpu(x) and x.shape[-2] * x.shape[-1] <= 28 * 28 and x.is_contiguous(memory_format=torch.channels_last)
