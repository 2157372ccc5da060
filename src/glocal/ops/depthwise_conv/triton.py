"""Triton kernels of the depthwise convolution: its result, and the gradients of the map, the kernels and the factor.

A program computes a block of positions × a block of channels, one tap after the other; the map's elements that several
taps need come from the cache. The block lies along the axis that is contiguous in memory, so that NCHW and
channels_last are read as they are. Sums are in float32. Nothing is added by atomics: results repeat bit by bit.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from glocal.ops.launch import channels_are_neighbours, launching
from glocal.ops.tiles import tile

POSITIONS = {True: 32, False: 128}  # of a block, by whether the channels are contiguous
CHANNELS = {True: 64, False: 4}
TILE = 4096  # elements of a block of the kernels' gradient: taps of a row × positions × channels
PROGRAMS = 1024  # among which the kernels' gradient is divided


@triton.jit
def _gelu(z):
    return 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))


@triton.jit
def _gelu_slope(z):
    return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)


@triton.jit
def _block(channels, area, CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's positions and channels, shaped so that they broadcast to a block, and which of it is real."""
    p, c = tile(tl.program_id(0) * BLOCK_P, tl.program_id(1) * BLOCK_C, CHANNELS_LAST, BLOCK_P, BLOCK_C)
    return p, c, (p < area) & (c < channels)


@triton.jit
def _convolve(
    x, weight, bias, residual, factor, reach, y, z,
    channels, height, width,
    xb, xc, xh, xw, yb, yc, yh, yw, rb, rc, rh, rw, fb, fc, fh, fw, weight_b, bias_b,
    K: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr,
    BIAS: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, FACTOR: tl.constexpr,
    REACH: tl.constexpr, KEEP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = residual + factor · gelu(z), z = weight * x + bias; each part if its flag is set, z stored with KEEP.

    FLIP mirrors the kernels: the gradient of the map. REACH: kernels that are zero beyond a distance of each channel.
    """
    p, c, real = _block(channels, height * width, CHANNELS_LAST, BLOCK_P, BLOCK_C)
    b = tl.program_id(2)
    row, column = p // width, p % width
    total = tl.zeros(real.shape, tl.float32)
    kernel = weight + b * weight_b + c * (K * K)
    known = c < channels
    farthest = K // 2
    if REACH:
        own = tl.load(reach + c, mask=known, other=0)
        farthest = tl.max(tl.max(own, 1), 0)
    for i in range(K // 2 - farthest, K // 2 + farthest + 1):
        at_row = row + (i - K // 2) * DILATION
        in_row = real & (at_row >= 0) & (at_row < height)
        for j in tl.static_range(K):
            at_column = column + (j - K // 2) * DILATION
            inside = in_row & (at_column >= 0) & (at_column < width)
            if REACH:
                inside = inside & (own >= (j - K // 2 if j > K // 2 else K // 2 - j))
            tap = (K * K - 1) - (i * K + j) if FLIP else i * K + j
            value = tl.load(x + b * xb + c * xc + at_row * xh + at_column * xw, mask=inside, other=0.0)
            total += value.to(tl.float32) * tl.load(kernel + tap, mask=known, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + b * bias_b + c, mask=known, other=0.0).to(tl.float32)
    place = b * yb + c * yc + row * yh + column * yw
    if KEEP:
        tl.store(z + place, total, mask=real)
    if GELU:
        total = _gelu(total)
    if FACTOR:
        at = b * fb + c * fc + row * fh + column * fw
        total *= tl.load(factor + at, mask=real, other=0.0).to(tl.float32)
    if RESIDUAL:
        at = b * rb + c * rc + row * rh + column * rw
        total += tl.load(residual + at, mask=real, other=0.0).to(tl.float32)
    tl.store(y + place, total, mask=real)


@triton.jit
def _gate_gradient(
    g, z, factor, gz, g_factor,
    channels, height, width,
    gb, gc, gh, gw, zb, zc, zh, zw, fb, fc, fh, fw,
    GELU: tl.constexpr, FACTOR: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of factor · gelu(z): the gradients of z and of the factor, both laid out as z, in one pass."""
    p, c, real = _block(channels, height * width, CHANNELS_LAST, BLOCK_P, BLOCK_C)
    b = tl.program_id(2)
    row, column = p // width, p % width
    place = b * zb + c * zc + row * zh + column * zw
    up = tl.load(g + b * gb + c * gc + row * gh + column * gw, mask=real, other=0.0).to(tl.float32)
    inner = tl.load(z + place, mask=real, other=0.0).to(tl.float32)
    slope = up
    if FACTOR:
        at = b * fb + c * fc + row * fh + column * fw
        slope = up * tl.load(factor + at, mask=real, other=0.0).to(tl.float32)
        tl.store(g_factor + place, up * (_gelu(inner) if GELU else inner), mask=real)
    if GELU:
        slope *= _gelu_slope(inner)
    tl.store(gz + place, slope, mask=real)


@triton.jit
def _weight_gradient(
    x, g, out,
    channels, height, width, count,
    xb, xc, xh, xw, gb, gc, gh, gw,
    K: tl.constexpr, DILATION: tl.constexpr, PER_SAMPLE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One row of taps of some channels' kernels, of a share of the positions: out[split, sample, channel, row, tap].

    count: positions of a sample, or of all samples for static kernels.
    """
    i, first = tl.program_id(0) % K, tl.program_id(0) // K * BLOCK_C
    split, sample = tl.program_id(1), tl.program_id(2)
    j = tl.arange(0, BLOCK_K)[:, None, None]
    c, n = first + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    if CHANNELS_LAST:
        c, n = c[None, None, :], n[None, :, None]
    else:
        c, n = c[None, :, None], n[None, None, :]
    area = height * width
    total = tl.zeros((j + n + c).shape, tl.float32)
    for start in range(split * BLOCK_P, count, tl.num_programs(1) * BLOCK_P):
        place = start + n
        real = (place < count) & (c < channels)
        if PER_SAMPLE:
            b, p = sample, place
        else:
            b, p = place // area, place % area
        row, column = p // width, p % width
        up = tl.load(g + b * gb + c * gc + row * gh + column * gw, mask=real, other=0.0).to(tl.float32)
        at_row, at_column = row + (i - K // 2) * DILATION, column + (j - K // 2) * DILATION
        inside = real & (j < K) & (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        value = tl.load(x + b * xb + c * xc + at_row * xh + at_column * xw, mask=inside, other=0.0).to(tl.float32)
        total += up * value
    sums = tl.sum(total, 1) if CHANNELS_LAST else tl.sum(total, 2)  # (BLOCK_K, BLOCK_C)
    j, c = tl.arange(0, BLOCK_K)[:, None], first + tl.arange(0, BLOCK_C)[None, :]
    kernel = (split * tl.num_programs(2) + sample) * channels + c
    tl.store(out + (kernel * K + i) * K + j, sums, mask=(j < K) & (c < channels))


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int = 1,
    gelu: bool = False,
    residual: Tensor | None = None,
    factor: Tensor | None = None,
    reach: Tensor | None = None,
) -> Tensor:
    """As `glocal.ops.depthwise_conv`; the residual and the factor may be of another type than x.

    reach: (C,) int32, beyond which distance from its centre each channel's kernel is zero: those taps are skipped.
    """
    inputs = [t for t in (x, weight, bias, factor) if t is not None]
    keep = (gelu or factor is not None) and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    return _op(x, weight.contiguous(), bias, residual, factor, reach, dilation, gelu, keep)[0]


@torch.library.custom_op("glocal::depthwise_conv", mutates_args=())
def _op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    factor: Tensor | None,
    reach: Tensor | None,
    dilation: int,
    gelu: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    y, z = _results(x, residual, factor, keep)
    _launch(x, weight, bias, residual, factor, reach, dilation, gelu, y, z)
    return y, z


@_op.register_fake
def _(x, weight, bias, residual, factor, reach, dilation, gelu, keep):
    return _results(x, residual, factor, keep)


def _results(x, residual, factor, keep):
    """Room for the result and for z."""
    dtype = x.dtype
    for other in (residual, factor):
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    return torch.empty_like(x, dtype=dtype), torch.empty_like(x) if keep else x.new_empty(0)


@torch.library.custom_op("glocal::depthwise_conv_input_gradient", mutates_args=())
def _input_gradient_op(g: Tensor, weight: Tensor, reach: Tensor | None, dilation: int) -> Tensor:
    out = torch.empty_like(g)
    _launch(g, weight, None, None, None, reach, dilation, False, out, None, flip=True)
    return out


@_input_gradient_op.register_fake
def _(g, weight, reach, dilation):
    return torch.empty_like(g)


@torch.library.custom_op("glocal::depthwise_conv_gate_gradient", mutates_args=())
def _gate_gradient_op(g: Tensor, z: Tensor, factor: Tensor | None, gelu: bool) -> tuple[Tensor, Tensor]:
    gz = torch.empty_like(z)
    g_factor = z.new_empty(0) if factor is None else torch.empty_like(z, dtype=factor.dtype)
    grid, blocks = _grid(z)
    with launching(z):
        _gate_gradient[grid](
            g, z, z if factor is None else factor, gz, g_factor,
            *z.shape[1:], *g.stride(), *z.stride(), *(z if factor is None else factor).stride(),
            GELU=gelu, FACTOR=factor is not None, **blocks,
        )  # fmt: skip
    return gz, g_factor


@_gate_gradient_op.register_fake
def _(g, z, factor, gelu):
    return torch.empty_like(z), z.new_empty(0) if factor is None else torch.empty_like(z, dtype=factor.dtype)


@torch.library.custom_op("glocal::depthwise_conv_weight_gradient", mutates_args=())
def _weight_gradient_op(x: Tensor, g: Tensor, kernel_size: int, per_sample: bool, dilation: int) -> Tensor:
    """The gradient of (B, C, k, k) or (C, 1, k, k) kernels, in float32."""
    batch, channels, height, width = x.shape
    samples = batch if per_sample else 1
    count = height * width * (1 if per_sample else batch)
    last = channels_are_neighbours(x)
    block_k = triton.next_power_of_2(kernel_size)
    block_c = min(triton.next_power_of_2(channels), 32 if last else 2)
    block_p = min(triton.next_power_of_2(count), max(1, TILE // (block_k * block_c)))
    rows = kernel_size * triton.cdiv(channels, block_c)
    splits = max(1, min(triton.cdiv(count, block_p), PROGRAMS // (rows * samples)))
    out = x.new_empty((splits, samples, channels, kernel_size, kernel_size), dtype=torch.float32)
    with launching(x):
        _weight_gradient[(rows, splits, samples)](
            x, g, out, channels, height, width, count, *x.stride(), *g.stride(),
            K=kernel_size, DILATION=dilation, PER_SAMPLE=per_sample,
            CHANNELS_LAST=last, BLOCK_K=block_k, BLOCK_P=block_p, BLOCK_C=block_c,
        )  # fmt: skip
    out = out.sum(0)
    return out if per_sample else out.transpose(0, 1)


@_weight_gradient_op.register_fake
def _(x, g, kernel_size, per_sample, dilation):
    batch, channels = x.shape[:2]
    if per_sample:
        return x.new_empty((batch, channels, kernel_size, kernel_size), dtype=torch.float32)
    return x.new_empty((1, channels, kernel_size, kernel_size), dtype=torch.float32).transpose(0, 1)


def _save(ctx, inputs, output):
    x, weight, bias, residual, factor, reach, ctx.dilation, ctx.gelu, _ = inputs
    ctx.set_materialize_grads(False)  # no tensor of zeros for z, which has no gradient
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.save_for_backward(x, weight, factor, reach, output[1])


def _backward(ctx, g, _):
    x, weight, factor, reach, z = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, needs_residual, needs_factor = ctx.needs_input_grad[:5]
    g_residual, g_factor = g, None
    if (ctx.gelu or factor is not None) and (needs_x or needs_weight or needs_bias or needs_factor):
        g, g_factor = _gate_gradient_op(g, z, factor, ctx.gelu)
    g = g.to(x.dtype)
    per_sample = _per_sample(x, weight)
    gx = _input_gradient_op(g, weight, reach, ctx.dilation) if needs_x else None
    g_weight = g_bias = None
    if needs_weight:
        g_weight = _weight_gradient_op(x, g, weight.shape[-1], per_sample, ctx.dilation).to(weight.dtype)
    if needs_bias:
        g_bias = g.sum((2, 3) if per_sample else (0, 2, 3), dtype=torch.float32).to(ctx.bias_dtype)
    g_residual = g_residual.to(ctx.residual_dtype) if needs_residual else None
    return gx, g_weight, g_bias, g_residual, g_factor if needs_factor else None, None, None, None, None


_op.register_autograd(_backward, setup_context=_save)


def multi_scale(weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Kernels (C_i, 1, k_i, k_i) of several sizes as one of the largest, zero outside, and each channel's reach."""
    size = max(weight.shape[-1] for weight in weights)
    margins = [(size - weight.shape[-1]) // 2 for weight in weights]
    padded = [F.pad(weight, [margin] * 4) for weight, margin in zip(weights, margins, strict=True)]
    device = weights[0].device
    reach = [torch.full((len(weight),), weight.shape[-1] // 2, dtype=torch.int32, device=device) for weight in weights]
    return torch.cat(padded), torch.cat(reach)


def _launch(x, weight, bias, residual, factor, reach, dilation, gelu, y, z, flip=False):
    grid, blocks = _grid(x)
    keep = z is not None and z.numel() > 0
    per_sample = _per_sample(x, weight)
    kernel = weight.shape[-1]
    with launching(x):
        _convolve[grid](
            x, weight, weight if bias is None else bias.contiguous(), x if residual is None else residual,
            x if factor is None else factor, weight if reach is None else reach, y, z if keep else y,
            *x.shape[1:], *x.stride(), *y.stride(),
            *(x if residual is None else residual).stride(), *(x if factor is None else factor).stride(),
            x.shape[1] * kernel * kernel if per_sample else 0, x.shape[1] if per_sample else 0,
            K=kernel, DILATION=dilation, FLIP=flip, BIAS=bias is not None, GELU=gelu,
            RESIDUAL=residual is not None, FACTOR=factor is not None, REACH=reach is not None, KEEP=keep, **blocks,
        )  # fmt: skip


def _grid(x: Tensor) -> tuple[tuple[int, int, int], dict]:
    batch, channels, height, width = x.shape
    last = channels_are_neighbours(x)
    block_p = min(triton.next_power_of_2(height * width), POSITIONS[last])
    block_c = min(triton.next_power_of_2(channels), CHANNELS[last])
    grid = (triton.cdiv(height * width, block_p), triton.cdiv(channels, block_c), batch)
    return grid, {"CHANNELS_LAST": last, "BLOCK_P": block_p, "BLOCK_C": block_c}


def _per_sample(x: Tensor, weight: Tensor) -> bool:
    return weight.shape[1] != 1 or weight.shape[0] != x.shape[1]
