"""Multi-scale feed-forward network without residuals inside, for inference (TransXNet's MS-FFN, once merged)."""

import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.depthwise_conv import multi_scale_depthwise_conv
from glocal.ops.multi_scale_ffn import graph, reference
from glocal.ops.pointwise_conv import pointwise_conv

__all__ = ["multi_scale_ffn"]

NO_KERNEL = "each of its steps is an op of its own"


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
    """project(GELU(depthwise(batch norm(GELU(expand(x)))))), the depthwise kernels of several sizes.

    Args:
        x: (B, C, H, W).
        expand: (D, C, 1, 1).
        moments: running mean and running variance of the batch norm, (D,) each.
        affine: its weight and bias, (D,) each.
        eps: its epsilon.
        kernels: (D_i, 1, k_i, k_i), odd k_i, for the first D_0 channels, the next D_1, …; ΣD_i = D.
        biases: (D_i,) each.
        project: (C', D, 1, 1).
        bias: (C',).

    Returns:
        (B, C', H, W).

    Source: arXiv 2310.19380, section III-C.
    """
    if dispatch.exporting():
        return graph.multi_scale_ffn(x, expand, moments, affine, eps, kernels, biases, project, bias)
    if dispatch.backend() == "reference":
        return reference.multi_scale_ffn(x, expand, moments, affine, eps, kernels, biases, project, bias)
    x = F.batch_norm(pointwise_conv(x, expand, gelu=True), *moments, *affine, eps=eps)
    x = multi_scale_depthwise_conv(x, kernels, biases, residual=False, gelu=True)
    return pointwise_conv(x, project, bias)
