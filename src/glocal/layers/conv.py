"""Convolutions are plain `nn.Conv2d`s, and `convolve` calls them by the fastest way there is.

Adapters and quantisers put another module in a layer's place; hooks and parametrisations act where a layer is called.
So a layer's weights are used without calling it only where the layer is a plain one that nobody watches (`is_plain`).

TorchScript cannot hand a layer to a function: under `torch.jit.is_scripting()` a mixer calls its layers itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from glocal.ops import depthwise_conv, pointwise_conv
from glocal.ops.dispatch import exporting, takes_cpu, tracing


def pointwise(in_dim: int, out_dim: int, bias: bool = True) -> nn.Conv2d:
    """A 1×1 convolution: one linear layer for every position."""
    return nn.Conv2d(in_dim, out_dim, 1, bias=bias)


def depthwise(dim: int, kernel_size: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """A depthwise k×k convolution, stride 1, with zero padding that keeps the size."""
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(dim, dim, kernel_size, padding=padding, dilation=dilation, groups=dim, bias=bias)


def is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Conv2d) -> bool:
    """Whether a call of the layer is nothing but `kind.forward`.

    Not so for a subclass (a parametrised layer is one), with a hook or a `forward` of its own, or while a graph is made
    that names its layers (torch.jit.trace).
    """
    return (
        type(layer) is kind
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and not (layer._backward_hooks or layer._backward_pre_hooks)
        and "forward" not in layer.__dict__
        and not torch_module._has_any_global_hook()
        and not torch.jit.is_tracing()
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
    """residual + factor · GELU(layer(x)), less what is not asked for: in one operation where there is one.

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
    apart = exporting() or (convolved and takes_cpu(x))  # runtimes, and convolutions on a CPU, copy parts of a map
    if apart and is_pointwise(layer) and layer.bias is not None:
        (first, second), (first_bias, second_bias) = layer.weight.chunk(2), layer.bias.chunk(2)
        return pointwise_conv(x, first, first_bias), pointwise_conv(x, second, second_bias)
    first, second = convolve(layer, x).chunk(2, dim=1)
    return first, second


def pad_to_even(x: Tensor) -> Tensor:
    """Zeros at the right and bottom of an odd size, so that 2×2 convolutions with stride 2 lose none of it."""
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if tracing() or not isinstance(x, Tensor):
            return F.pad(x, [0, 1, 0, 1])  # a convolution drops it again where the size is even
    pad_bottom, pad_right = x.shape[-2] % 2, x.shape[-1] % 2
    if pad_bottom > 0 or pad_right > 0:
        x = F.pad(x, [0, pad_right, 0, pad_bottom])
    return x
