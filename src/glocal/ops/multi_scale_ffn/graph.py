"""Multi-scale feed-forward network for exported graphs."""

import torch.nn.functional as F
from torch import Tensor

from glocal.ops.depthwise_conv import depthwise_conv
from glocal.ops.pointwise_conv import pointwise_conv


def multi_scale_ffn(
    x: Tensor,
    expand: Tensor,
    moments: tuple[Tensor, Tensor],
    affine: tuple[Tensor, Tensor],
    eps: float,
    kernels: list[Tensor],
    biases: list[Tensor],
    project: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """A network for each kernel size, whose results are added up: neither split nor joined, and no tap too many."""
    out, first = 0.0, 0
    for kernel, own_bias in zip(kernels, biases, strict=True):
        own = slice(first, first + len(kernel))
        part = pointwise_conv(x, expand[own], gelu=True)
        part = F.batch_norm(part, *(m[own] for m in moments), *(a[own] for a in affine), eps=eps)
        part = depthwise_conv(part, kernel, own_bias, gelu=True)
        out = out + pointwise_conv(part, project[:, own], bias)
        bias, first = None, own.stop
    return out
