"""1×1 convolution, and the GELU that follows it."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.pointwise_conv import cpu, reference

__all__ = ["pointwise_conv"]


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
        if dispatch.takes_cpu(x):
            return cpu.pointwise_conv(x, weight, bias, gelu)
    return reference.pointwise_conv(x, weight, bias, gelu)
