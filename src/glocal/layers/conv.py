"""Convolutions are plain `nn.Conv2d`s, and `convolve` computes them in the fastest way.

Adapters and quantisers put another module in a layer's place; hooks and parametrisations act when a layer is called.
So a layer's weights are used without calling the layer only if it is plain and has no hooks (`is_plain`).

TorchScript cannot hand a layer to a function: under `torch.jit.is_scripting()` a mixer calls its layers itself.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from glocal.ops import depthwise_conv, pointwise_conv, pointwise_halves, records_calls


def pointwise(in_dim: int, out_dim: int, bias: bool = True) -> nn.Conv2d:
    """A 1×1 convolution: one linear layer for every position."""
    return nn.Conv2d(in_dim, out_dim, 1, bias=bias)


def depthwise(dim: int, kernel_size: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """A depthwise k×k convolution, stride 1, with zero padding that keeps the size."""
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(dim, dim, kernel_size, padding=padding, dilation=dilation, groups=dim, bias=bias)


def is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Conv2d) -> bool:
    """Whether a call of the layer is nothing but `kind.forward`.

    It is more for a subclass (a parametrised layer is one), for a layer with a hook or with a `forward` of its own, and
    while torch.jit.trace makes a graph that names its layers.
    """
    return (
        type(layer) is kind
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and not (layer._backward_hooks or layer._backward_pre_hooks)
        and "forward" not in layer.__dict__
        and not torch_module._has_any_global_hook()
        and not records_calls()
    )


def is_pointwise(layer: nn.Module) -> bool:
    """Whether the layer is a plain 1×1 convolution over all channels."""
    return is_plain(layer) and _mixes_channels(layer)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether the layer is a plain convolution of each channel with an odd square kernel that keeps the size."""
    return is_plain(layer) and _keeps_channels(layer)


def _mixes_channels(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.kernel_size == conv.stride == (1, 1) and conv.padding in ((0, 0), "valid")


def _keeps_channels(conv: nn.Conv2d) -> bool:
    side, dilation = conv.kernel_size[0], conv.dilation[0]
    reach = dilation * (side // 2)
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and side % 2 == 1
        and conv.kernel_size == (side, side)
        and conv.dilation == (dilation, dilation)
        and conv.stride == (1, 1)
        and conv.padding == (reach, reach)
        and conv.padding_mode == "zeros"
    )


def convolve(
    layer: nn.Module, x: Tensor, gelu: bool = False, residual: Tensor | None = None, factor: Tensor | None = None
) -> Tensor:
    """residual + factor · GELU(layer(x)), each part if it is asked for, in one operation if one can compute it.

    Args:
        layer: maps (B, C, H, W) to (B, D, H, W).
        residual, factor: (B, D, H, W).
    """
    if isinstance(x, Tensor) and is_plain(layer):  # not a tensor: FX traces
        if residual is None and factor is None and _mixes_channels(layer):
            return pointwise_conv(x, layer.weight, layer.bias, gelu)
        if _keeps_channels(layer):
            return depthwise_conv(x, layer.weight, layer.bias, layer.dilation[0], gelu, residual, factor)
    y = layer(x)
    if gelu:
        y = F.gelu(y)
    if factor is not None:
        y = y * factor
    return y if residual is None else residual + y


def in_turn(layers: nn.Module, x: Tensor) -> Tensor:
    """The layers of a Sequential one after the other, each by `convolve`."""
    if not is_plain(layers, nn.Sequential):
        return layers(x)
    for layer in layers:
        x = convolve(layer, x)
    return x


def halves(layer: nn.Module, x: Tensor, convolved: bool = False) -> tuple[Tensor, Tensor]:
    """The two halves of the channels of a 1×1 convolution's output. convolved: whether a convolution takes one."""
    if is_pointwise(layer):
        return pointwise_halves(x, layer.weight, layer.bias, convolved)
    first, second = convolve(layer, x).chunk(2, dim=1)
    return first, second


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, n·C, H, W) → (B, n·heads, d, H, W)."""
    batch, _, height, width = x.shape
    return x.reshape(batch, -1, head_dim, height, width)
