"""Depthwise convolution on a CPU, for what torch's own does slowly there.

That is dilation, the gradient of large kernels, GELU as a pass of its own, and channels that are split into parts.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.depthwise_conv.reference import as_groups, from_groups

LARGEST_JOINED = 7  # side of the kernels up to which oneDNN's convolution with GELU is faster than without and GELU
TILE = 14  # columns that share a matrix product in the kernels' gradient


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool = False) -> Tensor:
    """Convolve with kernels (C, 1, rows, columns) or (B, C, rows, columns) of which every tap can meet the map."""
    return from_groups(convolve_groups(*as_groups(x, weight, bias), dilation, gelu), x)


def convolve_groups(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool) -> Tensor:
    """Convolve (B, C, H, W) with one kernel per channel, (C, 1, rows, columns) with odd sides, keeping the size."""
    height, width = x.shape[-2], x.shape[-1]
    if dilation > 1 and (max(height, width) > 8 or len(weight) > 256):  # below, torch's is fast
        # Positions that are `dilation` apart see each other only, so they are maps of their own, without dilation.
        return _from_phases(convolve_groups(_to_phases(x, dilation), weight, bias, 1, gelu), dilation, height, width)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y = _Convolution.apply(*dispatch.autocast(x, weight, bias), dilation)
    elif gelu and max(weight.shape[2:]) <= LARGEST_JOINED and dispatch.can_use_onednn(x, weight, bias):
        padding = [dilation * (side // 2) for side in weight.shape[2:]]
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, padding, [1, 1], [dilation, dilation], len(weight), "gelu", [], "none"
        )
    else:
        y = _convolve(x, weight, bias, dilation)
    return F.gelu(y) if gelu else y


def finish(y: Tensor, residual: Tensor | None, factor: Tensor | None) -> Tensor:
    """residual + factor · y, written over y if no gradient needs y: nothing else holds it."""
    for other, function in ((factor, torch.mul), (residual, torch.add)):
        if other is not None:
            in_place = other.dtype == y.dtype and other.shape == y.shape and dispatch.can_use_inference_ops(y, other)
            y = function(other, y, out=y if in_place else None)
    return y


def as_one(weights: list[Tensor], residual: bool) -> Tensor:
    """Kernels of several sizes, (C_i, 1, k_i, k_i), as those of one convolution, which adds its input if asked to.

    It multiplies more often than several do, but the map is neither split nor joined.
    """
    sides = [max(weight.shape[i] for weight in weights) for i in (2, 3)]
    whole = []
    for weight in weights:
        down, across = ((side - own) // 2 for side, own in zip(sides, weight.shape[2:], strict=True))
        whole.append(F.pad(weight, [across, across, down, down]))
    weight = torch.cat(whole)
    if residual:
        weight[:, 0, sides[0] // 2, sides[1] // 2] += 1
    return weight


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    padding = [dilation * (side // 2) for side in weight.shape[2:]]
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=len(weight))


class _Convolution(torch.autograd.Function):
    """`_convolve`, with the bias's gradient as a sum, and the kernels' as matrix products where that is faster."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        return _convolve(x, weight, bias, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor):
        x, weight, _, ctx.dilation = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        of_x = of_weight = None
        if for_x:
            of_x = _convolve(grad, weight.flip(2, 3), None, ctx.dilation)
        if for_weight and (ctx.dilation > 1 or _products_are_faster(x, weight)):
            of_weight = kernel_gradient(x, grad, weight.shape[-2], weight.shape[-1], ctx.dilation)
        elif for_weight:
            padding = [side // 2 for side in weight.shape[2:]]
            of_weight = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), [False, True, False]
            )[1]
        return of_x, of_weight, grad.sum((0, 2, 3)) if for_bias else None, None


def kernel_gradient(x: Tensor, grad: Tensor, rows: int, columns: int, dilation: int = 1) -> Tensor:
    """The gradient of the kernels, (C, 1, rows, columns), as one matrix product for every row of theirs.

    The columns of the map are cut into tiles of T; every row of every tile of every image is a step of the inner sum.
    The product of grad, (T, steps), and of x moved by a kernel's row, (steps, T + columns − 1), then holds that row's
    gradient on its diagonals (with dilation, on some of them). It multiplies (T + columns − 1) / columns times as often
    as needed, but at a matrix product's speed.
    """
    channels, width = x.shape[1], x.shape[3]
    down, across = dilation * (rows // 2), dilation * (columns // 2)
    tiles = max(1, round(width / TILE))
    tile = -(-width // tiles)
    wide, fill = tile + 2 * across, tile * tiles - width
    # Rows of zeros between the images, so that none of a neighbour's is met.
    x = F.pad(x.transpose(0, 1), [across, across + fill, 0, down]).unfold(3, wide, tile).reshape(channels, -1, wide)
    grad = F.pad(grad.transpose(0, 1), [0, fill, 0, down]).reshape(channels, -1, tile)
    steps = x.shape[1]
    products = []
    for row in range(-down, down + 1, dilation):
        offset = row * tiles
        of_grad = grad[:, max(0, -offset) : steps - max(0, offset)]
        products.append(of_grad.transpose(1, 2) @ x[:, max(0, offset) : steps - max(0, -offset)])
    product = torch.stack(products, dim=1)  # (C, rows, T, T + columns − 1)
    diagonals = [product.diagonal(i, 2, 3) for i in range(0, wide - tile + 1, dilation)]
    return torch.stack([diagonal.sum(-1) for diagonal in diagonals], dim=-1).unsqueeze(1)


def _products_are_faster(x: Tensor, weight: Tensor) -> bool:
    taps = weight.shape[-1]
    if x.is_contiguous(memory_format=torch.channels_last):
        return taps > 7 or (taps > 3 and x.shape[-1] <= 16)
    return taps > 3


def _to_phases(x: Tensor, dilation: int) -> Tensor:
    """(B, C, H, W) → (B·dilation², C, ⌈H / dilation⌉, ⌈W / dilation⌉), in the same memory format."""
    x = F.pad(x, [0, -x.shape[-1] % dilation, 0, -x.shape[-2] % dilation])
    batch, channels, height, width = x.shape
    sides = height // dilation, dilation, width // dilation, dilation
    if x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1).reshape(batch, *sides, channels).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(batch * dilation**2, sides[0], sides[2], channels).permute(0, 3, 1, 2)
    x = x.reshape(batch, channels, *sides).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch * dilation**2, channels, sides[0], sides[2])


def _from_phases(x: Tensor, dilation: int, height: int, width: int) -> Tensor:
    """The inverse of `_to_phases`."""
    channels, rows, columns = x.shape[1:]
    if x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1).reshape(-1, dilation, dilation, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(-1, rows * dilation, columns * dilation, channels)
        return x[:, :height, :width].contiguous().permute(0, 3, 1, 2)
    x = x.reshape(-1, dilation, dilation, channels, rows, columns).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(-1, channels, rows * dilation, columns * dilation)[..., :height, :width].contiguous()
