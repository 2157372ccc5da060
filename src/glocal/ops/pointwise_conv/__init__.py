"""1×1 convolution, the GELU that follows it, and the two halves of its result."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.pointwise_conv import cpu, reference

__all__ = ["pointwise_conv", "pointwise_halves"]

NO_KERNEL = "it is a matrix product"


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """Apply one linear layer to every position, and GELU to the result if asked to.

    Args:
        x: (B, C, H, W).
        weight: (D, C, 1, 1).
        bias: (D,).

    Returns:
        (B, D, H, W).
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.can_use_cpu(x):
            return cpu.pointwise_conv(x, weight, bias, gelu)
    return reference.pointwise_conv(x, weight, bias, gelu)


def pointwise_halves(x: Tensor, weight: Tensor, bias: Tensor | None, convolved: bool = False) -> tuple[Tensor, Tensor]:
    """The two halves of the channels of `pointwise_conv(x, weight, bias)`, (B, D / 2, H, W) each.

    convolved: a convolution takes one of them. Runtimes, and convolutions on a CPU, copy a part of a map; for them each
    half is a product of its own.
    """
    apart = dispatch.exporting() or (convolved and dispatch.can_use_cpu(x))
    if apart and bias is not None:
        (first, second), (first_bias, second_bias) = weight.chunk(2), bias.chunk(2)
        return pointwise_conv(x, first, first_bias), pointwise_conv(x, second, second_bias)
    first, second = pointwise_conv(x, weight, bias).chunk(2, dim=1)
    return first, second
