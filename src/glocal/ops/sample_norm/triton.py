"""Triton kernels of GroupNorm with one group, for maps with any strides: torch's copies a map in channels_last first.

A sample is divided among several programs. Forward: each finds the mean and the squares of its share, which are put
together in a few numbers; then result = x · gain + shift, both by sample and channel. Backward: each adds up the
gradient, and its product with x, by channel; then the gradient of x is again linear in g and x. Without atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glocal.ops.launch import channels_are_neighbours, launching, register_norm_gradients
from glocal.ops.tiles import load, place, tile

TILE = 4096  # elements of a block
PROGRAMS = 512  # among which the sums of all samples are divided


@triton.jit
def _own_block(channels, area, CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's sample, positions and channels, and which of them are real."""
    n, c = tile(tl.program_id(0) * BLOCK_N, tl.program_id(2) * BLOCK_C, CHANNELS_LAST, BLOCK_N, BLOCK_C)
    known = c < channels
    return tl.program_id(1), n, c, known, (n < area) & known


@triton.jit
def _statistics(
    x, partial, channels, area, width, xb, xc, xh, xw,
    CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partial[sample, program] = how many elements, their mean, and the sum of squared distances from it."""
    b = tl.program_id(1)
    count = 0.0
    mean = 0.0
    squares = 0.0
    for start_n in range(tl.program_id(0) * BLOCK_N, area, tl.num_programs(0) * BLOCK_N):
        for start_c in range(0, channels, BLOCK_C):
            n, c = tile(start_n, start_c, CHANNELS_LAST, BLOCK_N, BLOCK_C)
            real = (n < area) & (c < channels)
            value = load(x, b, n, c, width, xb, xc, xh, xw, real)
            here = tl.minimum(area - start_n, BLOCK_N).to(tl.float32) * tl.minimum(channels - start_c, BLOCK_C)
            average = tl.sum(value) / here
            value = tl.where(real, value - average, 0.0)
            step = average - mean
            total = count + here
            squares += tl.sum(value * value) + step * step * count * here / total
            mean += step * here / total
            count = total
    share = partial + (b * tl.num_programs(0) + tl.program_id(0)) * 3
    tl.store(share, count)
    tl.store(share + 1, mean)
    tl.store(share + 2, squares)


@triton.jit
def _forward(
    x, gain, shift, y, channels, area, width, xb, xc, xh, xw, yb, yc, yh, yw,
    CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b, n, c, known, real = _own_block(channels, area, CHANNELS_LAST, BLOCK_N, BLOCK_C)
    value = load(x, b, n, c, width, xb, xc, xh, xw, real)
    by_channel = b * channels + c
    value *= tl.load(gain + by_channel, mask=known, other=0.0)
    value += tl.load(shift + by_channel, mask=known, other=0.0)
    tl.store(y + place(b, n, c, width, yb, yc, yh, yw), value, mask=real)


@triton.jit
def _sums(
    x, g, mean, partial, channels, area, width, xb, xc, xh, xw, gb, gc, gh, gw,
    CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partial[sample, program, 0 or 1, channel] = the sum of g, and of g · (x − mean)."""
    b = tl.program_id(1)
    average = tl.load(mean + b)
    axis: tl.constexpr = 0 if CHANNELS_LAST else 1
    block, c = tile(0, tl.program_id(2) * BLOCK_C, CHANNELS_LAST, BLOCK_N, BLOCK_C)
    known = c < channels
    level = tl.zeros(c.shape, tl.float32)
    along = tl.zeros(c.shape, tl.float32)
    for start in range(tl.program_id(0) * BLOCK_N, area, tl.num_programs(0) * BLOCK_N):
        n = start + block
        real = (n < area) & known
        value = load(x, b, n, c, width, xb, xc, xh, xw, real)
        up = load(g, b, n, c, width, gb, gc, gh, gw, real)
        level += tl.sum(up, axis, keep_dims=True)
        along += tl.sum(up * (value - average), axis, keep_dims=True)
    share = partial + (b * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + c
    tl.store(share, level, mask=known)
    tl.store(share + channels, along, mask=known)


@triton.jit
def _backward(
    x, g, gain, slope, level, gx, channels, area, width, xb, xc, xh, xw, gb, gc, gh, gw, ob, oc, oh, ow,
    CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b, n, c, known, real = _own_block(channels, area, CHANNELS_LAST, BLOCK_N, BLOCK_C)
    value = load(x, b, n, c, width, xb, xc, xh, xw, real)
    up = load(g, b, n, c, width, gb, gc, gh, gw, real)
    up *= tl.load(gain + b * channels + c, mask=known, other=0.0)
    up += value * tl.load(slope + b) + tl.load(level + b)
    tl.store(gx + place(b, n, c, width, ob, oc, oh, ow), up, mask=real)


@torch.library.custom_op("glocal::sample_norm", mutates_args=())
def _op(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and each sample's mean and inverse deviation."""
    y = torch.empty_like(x)
    sizes, blocks = _blocks(x)
    programs = _programs(x, blocks)
    partial = x.new_empty((x.shape[0], programs, 3), dtype=torch.float32)
    with launching(x):
        _statistics[(programs, x.shape[0])](x, partial, *sizes, *x.stride(), **blocks)
        count, average, squares = partial.unbind(2)
        total = x[0].numel()
        mean = (count * average).sum(1) / total
        squares = squares.sum(1) + (count * (average - mean.unsqueeze(1)).square()).sum(1)
        inverse = (squares / total + eps).rsqrt()
        gain = inverse.unsqueeze(1) * weight.float()
        shift = bias.float() - mean.unsqueeze(1) * gain
        _forward[_grid(x, blocks)](x, gain, shift, y, *sizes, *x.stride(), *y.stride(), **blocks)
    return y, mean, inverse


@_op.register_fake
def _(x, weight, bias, eps):
    return torch.empty_like(x), *(x.new_empty(x.shape[0], dtype=torch.float32) for _ in range(2))


@torch.library.custom_op("glocal::sample_norm_backward", mutates_args=())
def _backward_op(x: Tensor, weight: Tensor, g: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, and those of weight and bias, (2, C) in float32."""
    gx = torch.empty_like(x)
    sizes, blocks = _blocks(x)
    programs = _programs(x, blocks)
    partial = x.new_empty((x.shape[0], programs, 2, x.shape[1]), dtype=torch.float32)
    with launching(x):
        shares = (programs, x.shape[0], triton.cdiv(x.shape[1], blocks["BLOCK_C"]))
        _sums[shares](x, g, mean, partial, *sizes, *x.stride(), *g.stride(), **blocks)
        level, along = partial.sum(1).unbind(1)  # (B, C) each
        along = along * inverse.unsqueeze(1)  # with the normalised x
        gain = inverse.unsqueeze(1) * weight.float()
        total = x[0].numel()
        slope = -inverse * (gain * along).sum(1) / total
        offset = -(gain * level).sum(1) / total - mean * slope
        strides = *x.stride(), *g.stride(), *gx.stride()
        _backward[_grid(x, blocks)](x, g, gain, slope, offset, gx, *sizes, *strides, **blocks)
    return gx, torch.stack([along.sum(0), level.sum(0)])


register_norm_gradients(_op, _backward_op)


def sample_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As `glocal.ops.sample_norm`; the parameters may be of another type than the map."""
    return _op(x, weight, bias, eps)[0]


def _blocks(x: Tensor) -> tuple[tuple[int, int, int], dict]:
    """Channels, positions and width of a map, and the blocks: long along what is contiguous."""
    channels, area = x.shape[1], x.shape[2] * x.shape[3]
    channels_last = channels_are_neighbours(x)
    if channels_last:
        block_c = min(triton.next_power_of_2(channels), 256)
        block_n = min(triton.next_power_of_2(area), TILE // block_c)
    else:
        block_n = min(triton.next_power_of_2(area), 1024)
        block_c = min(triton.next_power_of_2(channels), TILE // block_n)
    return (channels, area, x.shape[3]), {"CHANNELS_LAST": channels_last, "BLOCK_N": block_n, "BLOCK_C": block_c}


def _programs(x: Tensor, blocks: dict) -> int:
    """How many programs share the positions of a sample."""
    return min(triton.cdiv(x.shape[2] * x.shape[3], blocks["BLOCK_N"]), triton.cdiv(PROGRAMS, x.shape[0]))


def _grid(x: Tensor, blocks: dict) -> tuple[int, int, int]:
    area = x.shape[2] * x.shape[3]
    return triton.cdiv(area, blocks["BLOCK_N"]), x.shape[0], triton.cdiv(x.shape[1], blocks["BLOCK_C"])
