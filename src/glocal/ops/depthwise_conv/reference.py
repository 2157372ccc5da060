"""Pure-PyTorch depthwise convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.depthwise_conv import cpu, graph


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int = 1,
    gelu: bool = False,
    residual: Tensor | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    y = convolve(x, weight, bias, dilation, gelu)
    if factor is None and residual is None:
        return y
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.takes_cpu(y):
            return cpu.finish(y, residual, factor)
    if factor is not None:
        y = y * factor
    return y if residual is None else residual + y


def multi_scale_depthwise_conv(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], residual: bool, gelu: bool = False
) -> Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.takes_cpu(x) and dispatch.takes_onednn(x, *weights, *biases):
            return convolve(x, cpu.as_one(weights, residual), torch.cat(biases), 1, gelu)
    parts = x.split([len(weight) for weight in weights], dim=1)
    y = torch.cat([convolve(part, weights[i], biases[i], 1, gelu and not residual) for i, part in enumerate(parts)], 1)
    if residual:
        y = x + y
        return F.gelu(y) if gelu else y
    return y


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool = False) -> Tensor:
    batch, channels, height, width = x.shape
    per_sample = weight.shape[1] != 1 or weight.shape[0] != channels  # else one kernel per channel
    if not torch.jit.is_scripting():
        weight = taps_within_reach(weight, height, width, dilation)
    one_tap = weight.shape[-2] == 1 and weight.shape[-1] == 1
    if one_tap and not weight.is_meta:  # torch takes such a convolution group by group
        if not torch.jit.is_scripting():
            x, weight, bias = dispatch.autocast(x, weight, bias)
        weight = weight.reshape(-1, channels, 1, 1)
        y = x * weight if bias is None else torch.addcmul(bias.reshape(-1, channels, 1, 1), x, weight)
        return F.gelu(y) if gelu else y
    if bias is not None and (not per_sample or batch == 1):
        bias = bias.reshape(-1)  # of a batch of one image with one channel it may be (1, 1)
    if not per_sample:
        return _by_groups(x, weight, bias, dilation, gelu)
    if batch == 1:
        return _by_groups(x, weight.transpose(0, 1), bias, dilation, gelu)
    if not torch.jit.is_scripting() and (isinstance(batch, torch.SymInt) or torch.jit.is_tracing()):
        y = graph.convolve(x, weight, dilation)
        y = y if bias is None else y + bias.reshape(-1, channels, 1, 1)
        return F.gelu(y) if gelu else y
    # One kernel per sample and channel: a batch of one with B·C channels, whose maps have to be contiguous.
    last = channels > 1 and x.stride(1) == 1  # also of a part of a wider map in channels_last
    x = x.reshape(1, batch * channels, height, width)
    weight = weight.reshape(batch * channels, 1, weight.shape[-2], weight.shape[-1])
    if bias is not None:
        bias = bias.reshape(batch * channels)
    x = _by_groups(x, weight, bias, dilation, gelu).reshape(batch, channels, height, width)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def _by_groups(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool) -> Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.takes_cpu(x):
            return cpu.convolve(x, weight, bias, dilation, gelu)
    padding = [dilation * (weight.shape[-2] // 2), dilation * (weight.shape[-1] // 2)]
    y = F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=weight.shape[0])
    return F.gelu(y) if gelu else y


def taps_within_reach(weight: Tensor, height: int, width: int, dilation: int = 1) -> Tensor:
    """Kernels (…, k, k) less the outer taps where every one of them falls on the padding: on maps smaller than k."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # the graph shall take other sizes too
        return weight
    if weight.is_meta:  # nothing is computed there, but the operations of the definition may be counted
        return weight
    row, column = weight.shape[-2] // 2, weight.shape[-1] // 2
    down, across = min(row, (height - 1) // dilation), min(column, (width - 1) // dilation)
    if down == row and across == column:
        return weight
    return weight[..., row - down : row + down + 1, column - across : column + across + 1]
