"""LayerNorm over the channels of a feature map."""

from functools import partial

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.channel_norm import graph, reference

__all__ = ["channel_norm"]


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise each position of (B, C, H, W) over C, then scale and shift by `weight` and `bias`, both (C,)."""
    if not torch.jit.is_scripting():
        if dispatch.can_use_triton("channel_norm", [x, weight, bias], partial(_limits, x, weight, bias)):
            return _by_triton(x, weight, bias, eps)
        if dispatch.exporting():
            return graph.channel_norm(x, weight, bias, eps)
    return reference.channel_norm(x, weight, bias, eps)


def _limits(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    channels, most = x.shape[1], 8192
    if channels > most:
        return f"{channels} channels are more than the {most} that a program can hold"
    return dispatch.other_shapes(weight=(weight, (channels,)), bias=(bias, (channels,)))


def _by_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    from glocal.ops.channel_norm import triton

    if torch.is_autocast_enabled(x.device.type):  # torch's layer norm is computed and returned in float32 there too
        x, weight, bias = x.float(), weight.float(), bias.float()
    return triton.channel_norm(x, weight, bias, eps)
