"""1×1 convolution on a CPU: in channels_last a linear layer on a view of the map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch

LARGEST_LINEAR = 28 * 28  # positions up to which a matrix product of MKL's is faster than oneDNN's convolution


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):
        positions = x.permute(0, 2, 3, 1)
        if gelu and dispatch.can_use_onednn(x, weight, bias):
            joined = torch.ops.mkldnn._linear_pointwise(positions, weight.flatten(1), bias, "gelu", [], "none")
            return joined.permute(0, 3, 1, 2)
        if x.shape[-2] * x.shape[-1] <= LARGEST_LINEAR:
            y = F.linear(positions, weight.flatten(1), bias).permute(0, 3, 1, 2)
            return F.gelu(y) if gelu else y
    y = F.conv2d(x, weight, bias)
    return F.gelu(y) if gelu else y
