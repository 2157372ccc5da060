"""Depthwise convolution with static or per-sample kernels, and what the mixers do with its result."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.depthwise_conv import reference
from glocal.ops.depthwise_conv.reference import taps_within_reach

__all__ = ["depthwise_conv", "multi_scale_depthwise_conv", "taps_within_reach"]


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int = 1,
    gelu: bool = False,
    residual: Tensor | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """Convolve every channel with its own odd k×k kernel, stride 1, zero padding that keeps the size.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, k, k), shared by the batch, or (B, C, k, k), one kernel per sample (TransXNet's IDConv).
        bias: (C,) or, with per-sample kernels, (B, C).
        dilation: distance between the taps, in pixels.
        gelu: apply GELU to the result z of the convolution.
        residual, factor: (B, C, H, W); the result is then residual + factor · z.

    Returns:
        (B, C, H, W).
    """
    if not torch.jit.is_scripting():
        limits = partial(_limits, x, weight, bias, residual, factor)
        if dispatch.takes_triton("depthwise_conv", [x, weight, bias, residual, factor], limits):
            return _by_triton(x, weight, bias, dilation, gelu, residual, factor)
    return reference.depthwise_conv(x, weight, bias, dilation, gelu, residual, factor)


def multi_scale_depthwise_conv(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], residual: bool = True, gelu: bool = False
) -> Tensor:
    """x + a depthwise convolution whose channels have kernels of several sizes (TransXNet's MS-FFN).

    Args:
        x: (B, C, H, W).
        weights: (C_i, 1, k_i, k_i), odd k_i, for the first C_0 channels, the next C_1, …; ΣC_i = C.
        biases: (C_i,) each.
        residual: whether to add x.
        gelu: apply GELU to all of it.

    Returns:
        (B, C, H, W).
    """
    if not torch.jit.is_scripting():
        limits = partial(_multi_scale_limits, x, weights, biases)
        if dispatch.takes_triton("depthwise_conv", [x, *weights, *biases], limits):
            return _multi_scale_by_triton(x, weights, biases, residual, gelu)
    return reference.multi_scale_depthwise_conv(x, weights, biases, residual, gelu)


def _limits(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Tensor | None) -> str | None:
    """What the kernels, which check no shape, have against a call."""
    if reason := _against_kernels(weight):
        return reason
    shared = weight.shape[0] == x.shape[1] and weight.shape[1] == 1
    per_sample = weight.shape[0] == x.shape[0] and weight.shape[1] == x.shape[1]
    if not (shared or per_sample) or any(other is not None and other.shape != x.shape for other in others):
        return "its tensors have shapes that only broadcasting makes equal"
    if bias is not None and bias.numel() != (x.shape[1] if shared else x.shape[0] * x.shape[1]):
        return f"a bias of {bias.numel()} numbers is not one for each kernel"
    return dispatch.too_many(x.shape[0])


def _multi_scale_limits(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> str | None:
    if sum(len(weight) for weight in weights) != x.shape[1] or len(biases) != len(weights):
        return f"its kernels and biases are not one for each of {x.shape[1]} channels"
    for weight, bias in zip(weights, biases, strict=True):
        own = len(weight), 1, *weight.shape[2:]
        reason = _against_kernels(weight) or dispatch.other_shapes(weight=(weight, own), bias=(bias, own[:1]))
        if reason is not None:
            return reason
    return dispatch.too_many(x.shape[0])


def _against_kernels(weight: Tensor) -> str | None:
    rows, columns = weight.shape[-2:]
    if rows != columns:
        return f"its kernels of {rows} × {columns} are not square"
    return f"its kernels of {rows} × {columns} have no middle" if rows % 2 == 0 else None


def _by_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int,
    gelu: bool,
    residual: Tensor | None,
    factor: Tensor | None,
) -> Tensor:
    from glocal.ops.depthwise_conv import triton

    x, weight, bias = dispatch.autocast(x, weight, bias)
    return triton.depthwise_conv(x, weight, bias, dilation, gelu, residual, factor)


def _multi_scale_by_triton(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], residual: bool, gelu: bool
) -> Tensor:
    from glocal.ops.depthwise_conv import triton

    weight, reach = triton.multi_scale(weights)
    inner, weight, bias = dispatch.autocast(x, weight, torch.cat(biases))
    if not residual:
        return triton.depthwise_conv(inner, weight, bias, gelu=gelu, reach=reach)
    y = triton.depthwise_conv(inner, weight, bias, residual=x, reach=reach)
    return F.gelu(y) if gelu else y
