"""Depthwise convolution with static or per-sample kernels."""

from torch import Tensor

from glocal.ops.depthwise_conv import reference
from glocal.ops.depthwise_conv.reference import taps_within_reach

__all__ = ["depthwise_conv", "taps_within_reach"]


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Convolve every channel with its own odd k×k kernel, stride 1, zero padding that keeps the size.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, k, k), shared by the batch, or (B, C, k, k), one kernel per sample (TransXNet's IDConv).
        bias: (C,) or, with per-sample kernels, (B, C).
        dilation: distance between the taps, in pixels.

    Returns:
        (B, C, H, W).
    """
    return reference.depthwise_conv(x, weight, bias, dilation)
