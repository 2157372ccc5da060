"""1×1 convolution, the GELU that follows it, and the two halves of its result."""

from collections.abc import Callable

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.pointwise_conv import cpu, reference

__all__ = ["pointwise_conv", "pointwise_halves", "pointwise_of_large_map"]

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


def pointwise_of_large_map(function: Callable[..., Tensor], *tensors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """pointwise_conv(function(*tensors), weight, bias); of large maps the gradient keeps the arguments alone, and calls
    the function again.

    Args:
        function: of maps and parameters, a map first; as in `recompute`.
    """
    large = not dispatch.sizes_are_open() and tensors[0].shape[-2] * tensors[0].shape[-1] > dispatch.KEPT_POSITIONS
    if large and torch.is_grad_enabled() and dispatch.can_use_own_gradients([*tensors, weight, bias]):
        return cpu.pointwise_of(function, weight, bias, *tensors)
    return pointwise_conv(function(*tensors), weight, bias)
