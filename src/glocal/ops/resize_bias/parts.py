"""The resized bias, some queries at a time, for `tiled_attention`.

A bicubic resize is separable, and each of its results has four terms along an axis. Queries that follow one another
share most of theirs, so that a group of them is a product of a small matrix with a few rows of the bias.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import tiled_attention
from glocal.ops.resize_bias import reference

GROUP = 16  # queries of a product, at least: smaller matrices take as long


def resized(queries: int, keys: int) -> tiled_attention.Bias:
    """The bias that `resize_bias` makes; a map of one column has all queries."""
    sizes = {"queries": queries, "keys": keys}
    return tiled_attention.Bias(partial(_Parts, **sizes), lambda bias: reference.resize_bias(bias, **sizes)[0])


class _Parts:
    def __init__(self, bias: Tensor, queries: int, keys: int):
        wide = torch.promote_types(bias.dtype, torch.float32)
        self.dtype, self.bias = bias.dtype, bias[0].to(wide)
        self.queries, self.rows, columns = queries, bias.shape[2], bias.shape[3]
        first, weights = taps(columns, keys, slice(0, keys), self.bias)
        places = (first.unsqueeze(1) + torch.arange(4, device=bias.device)).clamp(0, columns - 1)
        self.to_keys = weights.new_zeros(keys, columns).scatter_add_(1, places, weights).T  # (columns, P)
        self.group = max(GROUP, 4 * queries // self.rows)
        self.of_bias = torch.zeros(())

    def slices(self) -> list[slice]:
        groups = tiled_attention.AT_A_TIME // (len(self.bias) * self.to_keys.shape[1] * self.group)
        step = max(1, groups) * self.group
        return [slice(top, min(top + step, self.queries)) for top in range(0, self.queries, step)]

    def of(self, part: slice) -> Tensor:
        weights, rows, seen = self.groups(part)
        some = self.bias[:, seen] @ self.to_keys  # (heads, rows seen, P)
        own = weights @ some[:, rows]  # (heads, groups, queries of a group, P)
        return own.flatten(1, 2)[:, : part.stop - part.start].to(self.dtype)

    def add_gradient(self, part: slice, grad: Tensor) -> None:
        if not self.of_bias.ndim:
            self.of_bias = torch.zeros_like(self.bias)
        weights, rows, seen = self.groups(part)
        grad = F.pad(grad, [0, 0, 0, -grad.shape[1] % self.group]).unflatten(1, weights.shape[:2])
        of_rows = weights.transpose(1, 2) @ grad  # (heads, groups, rows of a group, P)
        of_seen = of_rows.new_zeros(len(grad), seen.stop - seen.start, grad.shape[3])
        of_seen.index_add_(1, rows.flatten(), of_rows.flatten(1, 2))
        self.of_bias[:, seen] += of_seen @ self.to_keys.T

    def gradient(self) -> Tensor:
        return self.of_bias.unsqueeze(0)

    def groups(self, part: slice) -> tuple[Tensor, Tensor, slice]:
        """For each group of queries, and queries beyond the last that fill its group: how much of each row of the bias
        it gets, (groups, queries, rows), and which rows these are among those that the part sees, (groups, rows).
        """
        stop = part.stop + -(part.stop - part.start) % self.group
        first, weights = taps(self.rows, self.queries, slice(part.start, stop), self.bias)
        first, weights = first.view(-1, self.group, 1), weights.view(-1, self.group, 4)
        start = first[:, :1]
        places = first - start + torch.arange(4, device=start.device)
        count = int(places.max()) + 1
        matrices = weights.new_zeros(*places.shape[:2], count).scatter_(2, places, weights)
        rows = (start[:, :, 0] + torch.arange(count, device=start.device)).clamp(0, self.rows - 1)
        seen = slice(int(rows[0, 0]), int(rows[-1, -1]) + 1)
        return matrices, rows - seen.start, seen


def taps(old: int, new: int, some: slice, like: Tensor) -> tuple[Tensor, Tensor]:
    """The first of the four numbers that make each of `some` results of a resize from `old` to `new`, (n,), and the
    weights of the four, (n, 4). Numbers beyond an edge are those at the edge.

    As torch's bicubic interpolation (a = −0.75, half-pixel centres), with its rounding of places.
    """
    scale = like.new_tensor(old) / new
    place = (torch.arange(some.start, some.stop, dtype=like.dtype, device=like.device) + 0.5) * scale - 0.5
    first = place.floor()
    after = (place - first).unsqueeze(1)
    inner, outer = torch.cat([after, 1 - after], 1), torch.cat([after + 1, 2 - after], 1)
    inner = (1.25 * inner - 2.25) * inner * inner + 1
    outer = ((-0.75 * outer + 3.75) * outer - 6) * outer + 3
    return first.to(torch.int64) - 1, torch.stack([outer[:, 0], inner[:, 0], inner[:, 1], outer[:, 1]], 1)
