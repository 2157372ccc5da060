"""Pure-PyTorch depthwise convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int = 1,
    gelu: bool = False,
    residual: Tensor | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    return finish(convolve(x, weight, bias, dilation, gelu), residual, factor)


def multi_scale_depthwise_conv(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], residual: bool, gelu: bool = False
) -> Tensor:
    parts = x.split([len(weight) for weight in weights], dim=1)
    y = torch.cat([convolve(part, weights[i], biases[i], 1, gelu and not residual) for i, part in enumerate(parts)], 1)
    if residual:
        y = x + y
        return F.gelu(y) if gelu else y
    return y


def finish(y: Tensor, residual: Tensor | None, factor: Tensor | None) -> Tensor:
    """residual + factor · y."""
    if factor is not None:
        y = y * factor
    return y if residual is None else residual + y


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool = False) -> Tensor:
    if weight.shape[-2] == 1 and weight.shape[-1] == 1 and not weight.is_meta:
        return one_tap(x, weight, bias, gelu)
    x_groups, weight, bias = as_groups(x, weight, bias)
    padding = [dilation * (weight.shape[-2] // 2), dilation * (weight.shape[-1] // 2)]
    y = F.conv2d(x_groups, weight, bias, padding=padding, dilation=dilation, groups=weight.shape[0])
    y = F.gelu(y) if gelu else y
    return from_groups(y, x)


def one_tap(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """A convolution with kernels of one tap: torch takes such a one group by group."""
    channels = x.shape[1]
    weight = weight.reshape(-1, channels, 1, 1)
    y = x * weight if bias is None else torch.addcmul(bias.reshape(-1, channels, 1, 1), x, weight)
    return F.gelu(y) if gelu else y


def is_per_sample(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels are (B, C, k, k), one for each sample and channel, and not (C, 1, k, k)."""
    return weight.shape[1] != 1 or weight.shape[0] != x.shape[1]


def as_groups(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Map, kernels and bias of a convolution with one group for each kernel, (n, 1, k, k).

    With one kernel per sample and channel the batch becomes a single map of B·C channels, which has to be contiguous.
    """
    batch, channels, height, width = x.shape
    if not is_per_sample(x, weight):
        return x, weight, None if bias is None else bias.reshape(-1)
    if batch == 1:
        return x, weight.transpose(0, 1), None if bias is None else bias.reshape(-1)
    groups = batch * channels
    weight = weight.reshape(groups, 1, weight.shape[-2], weight.shape[-1])
    return x.reshape(1, groups, height, width), weight, None if bias is None else bias.reshape(groups)


def from_groups(y: Tensor, x: Tensor) -> Tensor:
    """The result of a convolution of `as_groups(x, …)`, in x's shape and memory format."""
    if y.shape[0] == x.shape[0]:
        return y
    last = x.shape[1] > 1 and x.stride(1) == 1  # also of a part of a wider map in channels_last
    y = y.reshape(x.shape)
    return y.contiguous(memory_format=torch.channels_last) if last else y
