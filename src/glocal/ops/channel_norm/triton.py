"""Triton kernels of LayerNorm over the channels of a map: the result, and the gradients of the map and the parameters.

A program holds all channels of a block of positions, so that the map is read once; any strides. Sums are in float32;
the parameters' gradients are added up block by block, without atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glocal.ops.launch import channels_are_neighbours, launching, register_norm_gradients
from glocal.ops.tiles import load, place, tile

TILE = 4096  # elements of a block
PROGRAMS = 512  # among which the parameters' gradients are divided


@triton.jit
def _forward(
    x, weight, bias, y, mean, scale,
    count, channels, area, width, eps,
    xb, xc, xh, xw, yb, yc, yh, yw,
    CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0
    n, c = tile(tl.program_id(0) * BLOCK_N, 0, CHANNELS_LAST, BLOCK_N, BLOCK_C)
    b, p = n // area, n % area  # positions are counted through all samples
    real = (n < count) & (c < channels)
    value = load(x, b, p, c, width, xb, xc, xh, xw, real)
    average = tl.sum(value, axis, keep_dims=True) / channels
    value = tl.where(real, value - average, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(value * value, axis, keep_dims=True) / channels + eps)
    gain = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    tl.store(y + place(b, p, c, width, yb, yc, yh, yw), value * inverse * gain + shift, mask=real)
    tl.store(mean + n, average, mask=n < count)
    tl.store(scale + n, inverse, mask=n < count)


@triton.jit
def _backward(
    x, weight, g, mean, scale, gx, partial,
    count, channels, area, width,
    xb, xc, xh, xw, gb, gc, gh, gw, ob, oc, oh, ow,
    CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and this program's share of those of weight and bias: partial[program, 0 or 1, channel]."""
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0
    block, c = tile(0, 0, CHANNELS_LAST, BLOCK_N, BLOCK_C)
    known = c < channels
    gain = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
    g_weight = tl.zeros(c.shape, tl.float32)
    g_bias = tl.zeros(c.shape, tl.float32)
    for start in range(tl.program_id(0) * BLOCK_N, count, tl.num_programs(0) * BLOCK_N):
        n = start + block
        b, p = n // area, n % area
        real = (n < count) & known
        average = tl.load(mean + n, mask=n < count, other=0.0)
        inverse = tl.load(scale + n, mask=n < count, other=0.0)
        value = load(x, b, p, c, width, xb, xc, xh, xw, real)
        up = load(g, b, p, c, width, gb, gc, gh, gw, real)
        normal = tl.where(real, (value - average) * inverse, 0.0)
        g_weight += tl.sum(up * normal, 1 - axis, keep_dims=True)
        g_bias += tl.sum(up, 1 - axis, keep_dims=True)
        up = up * gain
        along = tl.sum(up * normal, axis, keep_dims=True) / channels
        level = tl.sum(up, axis, keep_dims=True) / channels
        slope = (up - level - normal * along) * inverse
        tl.store(gx + place(b, p, c, width, ob, oc, oh, ow), slope, mask=real)
    share = partial + tl.program_id(0) * 2 * channels + c
    tl.store(share, g_weight, mask=known)
    tl.store(share + channels, g_bias, mask=known)


@torch.library.custom_op("glocal::channel_norm", mutates_args=())
def _op(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x)
    count, blocks = _blocks(x)
    mean, scale = (x.new_empty(count, dtype=torch.float32) for _ in range(2))
    with launching(x):
        _forward[(triton.cdiv(count, blocks["BLOCK_N"]),)](
            x, weight, bias, y, mean, scale, count, x.shape[1], x.shape[2] * x.shape[3], x.shape[3], eps,
            *x.stride(), *y.stride(), **blocks,
        )  # fmt: skip
    return y, mean, scale


@_op.register_fake
def _(x, weight, bias, eps):
    count = x.shape[0] * x.shape[2] * x.shape[3]
    return torch.empty_like(x), *(x.new_empty(count, dtype=torch.float32) for _ in range(2))


@torch.library.custom_op("glocal::channel_norm_backward", mutates_args=())
def _backward_op(x: Tensor, weight: Tensor, g: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, and those of weight and bias, (2, C) in float32."""
    gx = torch.empty_like(x)
    count, blocks = _blocks(x)
    programs = min(PROGRAMS, triton.cdiv(count, blocks["BLOCK_N"]))
    partial = x.new_empty((programs, 2, x.shape[1]), dtype=torch.float32)
    with launching(x):
        _backward[(programs,)](
            x, weight, g, mean, scale, gx, partial, count, x.shape[1], x.shape[2] * x.shape[3], x.shape[3],
            *x.stride(), *g.stride(), *gx.stride(), **blocks,
        )  # fmt: skip
    return gx, partial.sum(0)


register_norm_gradients(_op, _backward_op)


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As `glocal.ops.channel_norm`; the parameters may be of another type than the map."""
    return _op(x, weight.contiguous(), bias.contiguous(), eps)[0]


def _blocks(x: Tensor) -> tuple[int, dict]:
    """The number of positions of all samples, and the blocks."""
    count = x.shape[0] * x.shape[2] * x.shape[3]
    block_c = triton.next_power_of_2(x.shape[1])
    block_n = min(triton.next_power_of_2(count), max(1, TILE // block_c))
    return count, {"CHANNELS_LAST": channels_are_neighbours(x), "BLOCK_N": block_n, "BLOCK_C": block_c}
