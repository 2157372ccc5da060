"""Multi-scale feed-forward network (TransXNet, arXiv 2310.19380)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d, PointwiseConv2d
from glocal.layers.fusion import absorb_input_norm, absorb_norm, absorb_residual
from glocal.layers.norm import BatchNorm2d
from glocal.ops import multi_scale_depthwise_conv, pointwise_conv
from glocal.ops.dispatch import exporting


@register_notrace_module
class MSFFN(nn.Module):
    """pw → GELU → BN → y + depthwise 1/3/5/7(y), a quarter of the channels each → GELU → BN → pw → BN."""

    input_conv, output_conv = "fc1", None  # the last is a norm

    def __init__(
        self, dim: int, expansion: float = 4.0, kernel_sizes: tuple[int, ...] = (1, 3, 5, 7), proj_drop: float = 0.0
    ):
        super().__init__()
        hidden = int(dim * expansion)
        part = hidden // len(kernel_sizes)
        split = [hidden - part * (len(kernel_sizes) - 1)] + [part] * (len(kernel_sizes) - 1)
        self.fc1 = PointwiseConv2d(dim, hidden, bias=False)
        self.norm1 = BatchNorm2d(hidden)
        self.convs = nn.ModuleList(DepthwiseConv2d(c, k) for c, k in zip(split, kernel_sizes, strict=True))
        self.norm2 = BatchNorm2d(hidden)
        self.fc2 = PointwiseConv2d(hidden, dim, bias=False)
        self.norm3 = BatchNorm2d(dim)
        self.drop = nn.Dropout(proj_drop)
        self.adds_input = True  # else the kernels do

    def forward(self, x: Tensor) -> Tensor:
        if exporting() and not self.training and not self.adds_input and isinstance(self.norm2, nn.Identity):
            return self.norm3(self.branches(x))
        x = self.norm1(self.fc1(x, gelu=True))
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for conv in self.convs:  # TorchScript knows no comprehension over modules
            weights.append(conv.weight)
            bias = conv.bias
            if bias is not None:  # always so, which TorchScript does not know
                biases.append(bias)
        x = self.norm2(multi_scale_depthwise_conv(x, weights, biases, self.adds_input, gelu=True))
        return self.drop(self.norm3(self.fc2(self.drop(x))))

    @torch.jit.unused
    def branches(self, x: Tensor) -> Tensor:
        """A network for each kernel size, once merged, for graphs: neither split nor joined, and no tap too many."""
        norm, bias, out, first = self.norm1, self.fc2.bias, 0.0, 0
        for conv in self.convs:
            own = slice(first, first + conv.in_channels)
            moments = norm.running_mean[own], norm.running_var[own]
            part = pointwise_conv(x, self.fc1.weight[own], gelu=True)
            part = conv(F.batch_norm(part, *moments, norm.weight[own], norm.bias[own], eps=norm.eps), gelu=True)
            out = out + pointwise_conv(part, self.fc2.weight[:, own], bias)
            bias, first = None, own.stop
        return out

    def reparameterize(self):
        self.norm2 = absorb_input_norm(self.norm2, self.fc2)
        self.norm3 = absorb_norm(self.fc2, self.norm3)
        if isinstance(self.norm3, nn.Identity):
            self.output_conv = "fc2"
        if self.adds_input:
            for conv in self.convs:
                absorb_residual(conv)
            self.adds_input = False
