"""Depthwise convolution with static or per-sample kernels, and what the mixers do with its result."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.depthwise_conv import cpu, graph, reference

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
        if dispatch.can_use_triton("depthwise_conv", [x, weight, bias, residual, factor], limits):
            return _by_triton(x, weight, bias, dilation, gelu, residual, factor)
        on_cpu = dispatch.can_use_cpu(x)
        y = _convolve(x, weight, bias, dilation, gelu, on_cpu)
        if residual is None and factor is None:
            return y
        return (cpu if on_cpu else reference).finish(y, residual, factor)
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
        if dispatch.can_use_triton("depthwise_conv", [x, *weights, *biases], limits):
            return _multi_scale_by_triton(x, weights, biases, residual, gelu)
        return _multi_scale(x, weights, biases, residual, gelu)
    return reference.multi_scale_depthwise_conv(x, weights, biases, residual, gelu)


def taps_within_reach(weight: Tensor, height: int, width: int, dilation: int = 1) -> Tensor:
    """Kernels (…, k, k) less the outer taps if every one of them falls on the padding: on maps smaller than k."""
    if dispatch.sizes_are_open():
        return weight
    if weight.is_meta:  # nothing is computed there, but the operations of the definition may be counted
        return weight
    row, column = weight.shape[-2] // 2, weight.shape[-1] // 2
    down, across = min(row, (height - 1) // dilation), min(column, (width - 1) // dilation)
    if down == row and across == column:
        return weight
    return weight[..., row - down : row + down + 1, column - across : column + across + 1]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool, on_cpu: bool) -> Tensor:
    """GELU or not of the convolution alone, by torch's operations or by `cpu.py`."""
    batch, channels, height, width = x.shape
    weight = taps_within_reach(weight, height, width, dilation)
    if weight.shape[-2] == 1 and weight.shape[-1] == 1 and not weight.is_meta:
        return reference.one_tap(*dispatch.autocast(x, weight, bias), gelu)
    if on_cpu:
        return cpu.convolve(x, weight, bias, dilation, gelu)
    open_batch = isinstance(batch, torch.SymInt) or torch.jit.is_tracing()
    if open_batch and reference.is_per_sample(x, weight) and batch != 1:
        y = graph.convolve(x, weight, dilation)
        y = y if bias is None else y + bias.reshape(-1, channels, 1, 1)
        return F.gelu(y) if gelu else y
    return reference.convolve(x, weight, bias, dilation, gelu)


def _multi_scale(x: Tensor, weights: list[Tensor], biases: list[Tensor], residual: bool, gelu: bool) -> Tensor:
    on_cpu = dispatch.can_use_cpu(x)
    if on_cpu and dispatch.can_use_onednn(x, *weights, *biases):
        return _convolve(x, cpu.as_one(weights, residual), torch.cat(biases), 1, gelu, on_cpu)
    parts = zip(x.split([len(weight) for weight in weights], dim=1), weights, biases, strict=True)
    y = torch.cat([_convolve(*part, 1, gelu and not residual, on_cpu) for part in parts], 1)
    if residual:
        y = x + y
        return F.gelu(y) if gelu else y
    return y


def _limits(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Tensor | None) -> str | None:
    """Why the kernels refuse a call; they check no shapes themselves."""
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
