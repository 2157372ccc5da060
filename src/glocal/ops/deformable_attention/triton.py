"""Triton kernels of deformable attention, which read the maps as they lie in memory; torch's sampling copies them.

Forward: a program gathers for a block of queries of a head. Backward: the same program makes the gradients of places
and weights. A value is read by any number of queries, at places that only the data say; in place of atomics, whose
sums change from run to run, the reads are sorted by the cell in which they fall, and each position adds up those of
its four cells.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from glocal.ops.launch import launching

BLOCK_Q = 32  # queries of a program
BLOCK_E = 32  # reads that a position adds up at a time


@triton.jit
def _read(places, weights, entry, height, width, known):
    """Where a read falls, in cells with centres at whole numbers, and its weight; far outside where not `known`."""
    x = tl.load(places + 2 * entry, mask=known, other=-9.0).to(tl.float32) * width - 0.5
    y = tl.load(places + 2 * entry + 1, mask=known, other=-9.0).to(tl.float32) * height - 0.5
    weight = tl.load(weights + entry, mask=known, other=0.0).to(tl.float32)
    known = known & (x >= -1) & (x < width) & (y >= -1) & (y < height)
    return tl.where(known, x, -9.0), tl.where(known, y, -9.0), weight, known


@triton.jit
def _corner(values, row, column, height, width, start, d, dim, vn, vd):
    """The values of the positions at (row, column), zero outside the map: (BLOCK_Q, BLOCK_D) in float32."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    n = start + row.to(tl.int32) * width + column.to(tl.int32)
    return tl.load(values + n[:, None] * vn + d[None, :] * vd, mask=inside[:, None] & (d < dim)[None, :], other=0.0).to(
        tl.float32
    )


@triton.jit
def _forward(
    values, places, weights, levels, out, queries, heads, dim, vb, vn, vh, vd,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    d = tl.arange(0, BLOCK_D)
    known = q < queries
    values += b * vb + h * vh
    row_of_query = (b * queries + q) * heads + h
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for level in range(LEVELS):
        height = tl.load(levels + 4 * level)
        width = tl.load(levels + 4 * level + 1)
        start = tl.load(levels + 4 * level + 2)
        for point in range(POINTS):
            entry = row_of_query * (LEVELS * POINTS) + level * POINTS + point
            x, y, weight, _ = _read(places, weights, entry, height, width, known)
            left, top = tl.floor(x), tl.floor(y)
            for corner in tl.static_range(4):
                column, row = left + corner % 2, top + corner // 2
                value = _corner(values, row, column, height, width, start, d, dim, vn, vd)
                part = (1 - tl.abs(x - column)) * (1 - tl.abs(y - row))
                total += (weight * part)[:, None] * value
    where = row_of_query[:, None] * dim + d[None, :]
    tl.store(out + where, total, mask=known[:, None] & (d < dim)[None, :])


@triton.jit
def _read_gradient(
    values, places, weights, levels, g, g_places, g_weights, cells, queries, heads, dim, count,
    vb, vn, vh, vd, gb, gq, gc,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients of places and weights, and the cell of each read: sample and head, then row and column from −1."""
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    d = tl.arange(0, BLOCK_D)
    known = q < queries
    values += b * vb + h * vh
    row_of_query = (b * queries + q) * heads + h
    where = b * gb + q[:, None] * gq + (h * dim + d[None, :]) * gc
    up = tl.load(g + where, mask=known[:, None] & (d < dim)[None, :], other=0.0).to(tl.float32)
    for level in range(LEVELS):
        height = tl.load(levels + 4 * level)
        width = tl.load(levels + 4 * level + 1)
        start = tl.load(levels + 4 * level + 2)
        first_cell = tl.load(levels + 4 * level + 3)
        for point in range(POINTS):
            entry = row_of_query * (LEVELS * POINTS) + level * POINTS + point
            x, y, weight, reads = _read(places, weights, entry, height, width, known)
            left, top = tl.floor(x), tl.floor(y)
            along_x = tl.zeros((BLOCK_Q,), tl.float32)
            along_y = tl.zeros((BLOCK_Q,), tl.float32)
            whole = tl.zeros((BLOCK_Q,), tl.float32)
            for corner in tl.static_range(4):
                column, row = left + corner % 2, top + corner // 2
                value = _corner(values, row, column, height, width, start, d, dim, vn, vd)
                product = tl.sum(value * up, 1)
                across, down = 1 - tl.abs(x - column), 1 - tl.abs(y - row)
                whole += across * down * product
                along_x += (2 * (corner % 2) - 1) * down * product
                along_y += (2 * (corner // 2) - 1) * across * product
            tl.store(g_weights + entry, whole, mask=known)
            tl.store(g_places + 2 * entry, along_x * weight * width, mask=known)
            tl.store(g_places + 2 * entry + 1, along_y * weight * height, mask=known)
            cell = first_cell + (top.to(tl.int32) + 1) * (width + 1) + left.to(tl.int32) + 1
            cell = tl.where(reads, tl.program_id(1) * count + cell, tl.num_programs(1) * count)
            tl.store(cells + entry, cell, mask=known)


@triton.jit
def _value_gradient(
    places, weights, order, firsts, g, g_values, positions, queries, heads, dim, count,
    height, width, start, first_cell, gb, gq, gc,
    READS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of the value at one position of a map: a sum over the sorted reads of its four cells."""
    n = tl.program_id(0)
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    row, column = n // width, n % width
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for below in tl.static_range(2):
        cell = tl.program_id(1) * count + first_cell + (row + below) * (width + 1) + column
        first = tl.load(firsts + cell)
        last = tl.load(firsts + cell + 2)  # of the cells left and right of the position, which follow each other
        for at in range(first, last, BLOCK_E):
            index = at + tl.arange(0, BLOCK_E)
            known = index < last
            entry = tl.load(order + index, mask=known, other=0)
            x, y, weight, _ = _read(places, weights, entry, height, width, known)
            part = (1 - tl.abs(x - column)) * (1 - tl.abs(y - row))
            part = tl.where(known, weight * part, 0.0)
            q = entry // (heads * READS) - b * queries
            where = b * gb + q[:, None] * gq + (h * dim + d[None, :]) * gc
            up = tl.load(g + where, mask=known[:, None] & (d < dim)[None, :], other=0.0).to(tl.float32)
            total += tl.sum(part[:, None] * up, 0)
    tl.store(g_values + ((b * positions + start + n) * heads + h) * dim + d, total, mask=d < dim)


@torch.library.custom_op("glocal::deformable_attention", mutates_args=())
def _op(values: Tensor, places: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """sizes: the height and width of each map, in one list."""
    batch, queries, heads, levels, points = weights.shape
    dim = values.shape[3]
    out = _result(values, places, weights)
    with launching(values):
        _forward[(triton.cdiv(queries, BLOCK_Q), batch * heads)](
            values, places, weights, _levels(tuple(sizes), values.device), out, queries, heads, dim, *values.stride(),
            LEVELS=levels, POINTS=points, BLOCK_Q=BLOCK_Q, BLOCK_D=triton.next_power_of_2(dim),
        )  # fmt: skip
    return out


def _result(values: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads = weights.shape[:3]
    dtype = torch.promote_types(torch.promote_types(values.dtype, places.dtype), weights.dtype)
    return values.new_empty((batch, queries, heads * values.shape[3]), dtype=dtype)


@_op.register_fake
def _(values, places, weights, sizes):
    return _result(values, places, weights)


@torch.library.custom_op("glocal::deformable_attention_backward", mutates_args=())
def _backward_op(
    values: Tensor, places: Tensor, weights: Tensor, sizes: Sequence[int], g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, heads, levels, points = weights.shape
    positions, dim = values.shape[1], values.shape[3]
    g_values = torch.empty_like(values, memory_format=torch.contiguous_format)
    g_places, g_weights = torch.empty_like(places), torch.empty_like(weights)
    cells = weights.new_empty(weights.shape, dtype=torch.int32)
    maps = _maps(sizes)
    count = sum((height + 1) * (width + 1) for height, width, _, _ in maps)
    block_d = triton.next_power_of_2(dim)
    with launching(values):
        _read_gradient[(triton.cdiv(queries, BLOCK_Q), batch * heads)](
            values, places, weights, _levels(tuple(sizes), values.device), g, g_places, g_weights, cells,
            queries, heads, dim, count, *values.stride(), *g.stride(),
            LEVELS=levels, POINTS=points, BLOCK_Q=BLOCK_Q, BLOCK_D=block_d,
        )  # fmt: skip
        ordered, order = cells.flatten().sort(stable=True)
        borders = torch.arange(batch * heads * count + 1, dtype=torch.int32, device=values.device)
        firsts = torch.searchsorted(ordered, borders, out_int32=True)
        for height, width, start, first_cell in maps:
            _value_gradient[(height * width, batch * heads)](
                places, weights, order, firsts, g, g_values, positions, queries, heads, dim, count,
                height, width, start, first_cell, *g.stride(),
                READS=levels * points, BLOCK_E=BLOCK_E, BLOCK_D=block_d, num_warps=1,
            )  # fmt: skip
    return g_values, g_places, g_weights


@_backward_op.register_fake
def _(values, places, weights, sizes, g):
    return (
        torch.empty_like(values, memory_format=torch.contiguous_format),
        torch.empty_like(places),
        torch.empty_like(weights),
    )


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    *tensors, ctx.sizes = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, g):
    return *_backward_op(*ctx.saved_tensors, ctx.sizes, g), None


_op.register_autograd(_backward, setup_context=_save)


def deformable_attention(values: Tensor, sizes: Sequence[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """As `glocal.ops.deformable_attention`; the tensors may be of different types."""
    return _op(values, places.contiguous(), weights.contiguous(), [side for size in sizes for side in size])


def _maps(sizes: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Of each map height, width, its first position, and its first cell: cells are between positions, one more."""
    found, start, first_cell = [], 0, 0
    for height, width in zip(sizes[0::2], sizes[1::2], strict=True):
        found.append((height, width, start, first_cell))
        start += height * width
        first_cell += (height + 1) * (width + 1)
    return found


@lru_cache(maxsize=64)
def _levels(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """What `_maps` says, (levels, 4) int32; kept, as to move it to a GPU takes longer than to compute with it."""
    return torch.tensor(_maps(sizes), dtype=torch.int32, device=device)
