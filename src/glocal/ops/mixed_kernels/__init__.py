"""Depthwise kernels and biases of each sample, mixed from a learned bank (TransXNet's IDConv)."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.adaptive_average_pool import adaptive_average_pool
from glocal.ops.depthwise_conv import taps_within_reach
from glocal.ops.mixed_kernels import graph
from glocal.ops.mixed_kernels.reference import mixture
from glocal.ops.pointwise_conv import pointwise_conv

__all__ = ["kernel_contexts", "mixed_kernels", "mixture"]

NO_KERNEL = "it is small: a map of the kernel's side"


def kernel_contexts(x: Tensor, side: int, together: bool) -> list[Tensor]:
    """The inputs of kernels and biases: the map, (B, C, H, W), pooled to the kernel's side, and its mean.

    together: the caller allows one map that holds both, since its next step treats every position by itself.

    Returns:
        (B, C, side, side) and (B, C, 1, 1); or one map, (B, C, side + 1, side + 1), whose last corner is the mean.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if together and dispatch.exporting():
            return graph.kernel_contexts(x, side)
    return [adaptive_average_pool(x, side, side), x.mean(dim=(2, 3), keepdim=True)]


def mixed_kernels(
    hidden: list[Tensor],
    expand: Tensor,
    expand_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Mix the banks of kernels and biases with weights from `hidden`: softmax over G of expand · hidden + expand_bias.

    On a map smaller than the kernel, the outer taps, which would not meet the map, may be left out.

    Args:
        hidden: made from `kernel_contexts`, with R channels.
        expand: (G · C, R, 1, 1).
        expand_bias: (G · C,).
        weight: (G, C, k, k), the bank of kernels.
        bias: (G, C), the bank of biases.
        height, width: of the map that is convolved.

    Returns:
        Kernels, (B, C, k, k), and biases, (B, C).

    Source: arXiv 2310.19380, section III-B (IDConv).
    """
    if len(hidden) == 1:
        return graph.mixed_kernels(hidden[0], expand, expand_bias, weight, bias)
    side = max(height, width)  # the kernels stay square
    near = taps_within_reach(hidden[0], side, side)
    kernels = mixture(pointwise_conv(near, expand, expand_bias), taps_within_reach(weight, side, side))
    biases = mixture(pointwise_conv(hidden[1], expand, expand_bias), bias[..., None, None])
    return kernels, biases.flatten(1)
