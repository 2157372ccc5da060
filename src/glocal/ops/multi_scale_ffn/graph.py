"""Multi-scale feed-forward network for exported graphs."""

import torch.nn.functional as F
from torch import Tensor

from glocal.ops.depthwise_conv import depthwise_conv
from glocal.ops.multi_scale_ffn.reference import FFNParameters
from glocal.ops.pointwise_conv import pointwise_conv


def multi_scale_ffn(x: Tensor, p: FFNParameters) -> Tensor:
    """A network for each kernel size, whose results are added up: neither split nor joined, and no tap too many."""
    out, first, bias = 0.0, 0, p.project_bias
    for kernel, own_bias in zip(p.kernels, p.biases, strict=True):
        own = slice(first, first + len(kernel))
        part = pointwise_conv(x, p.expand[own], gelu=True)
        part = F.batch_norm(part, p.mean[own], p.variance[own], p.weight[own], p.bias[own], eps=p.eps)
        part = depthwise_conv(part, kernel, own_bias, gelu=True)
        out = out + pointwise_conv(part, p.project[:, own], bias)
        bias, first = None, own.stop
    return out
