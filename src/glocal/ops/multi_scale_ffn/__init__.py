"""Multi-scale feed-forward network without residuals inside, for inference (TransXNet's MS-FFN, once merged)."""

import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.depthwise_conv import multi_scale_depthwise_conv
from glocal.ops.multi_scale_ffn import graph, reference
from glocal.ops.multi_scale_ffn.reference import FFNParameters
from glocal.ops.pointwise_conv import pointwise_conv

__all__ = ["FFNParameters", "multi_scale_ffn"]

NO_KERNEL = "each of its steps is an op of its own"


def multi_scale_ffn(x: Tensor, parameters: FFNParameters) -> Tensor:
    """project(GELU(depthwise(batch norm(GELU(expand(x)))))), the depthwise kernels of several sizes.

    Args:
        x: (B, C, H, W).
        parameters: see `FFNParameters`.

    Returns:
        (B, C', H, W).

    Source: arXiv 2310.19380, section III-C.
    """
    if dispatch.exporting():
        return graph.multi_scale_ffn(x, parameters)
    if dispatch.backend() == "reference":
        return reference.multi_scale_ffn(x, parameters)
    p = parameters
    x = F.batch_norm(pointwise_conv(x, p.expand, gelu=True), p.mean, p.variance, p.weight, p.bias, eps=p.eps)
    x = multi_scale_depthwise_conv(x, p.kernels, p.biases, residual=False, gelu=True)
    return pointwise_conv(x, p.project, p.project_bias)
