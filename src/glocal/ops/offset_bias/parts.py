"""The bias from a table of offsets, some rows of queries at a time, for `tiled_attention`.

In the comments the queries are those of a map, H × W, and the keys those of another, h × w.
"""

from functools import partial

import torch
from torch import Tensor

from glocal.ops import tiled_attention
from glocal.ops.offset_bias.reference import offset_bias, take


def from_table(rows: Tensor, columns: Tensor) -> tiled_attention.Bias:
    """The bias of a table. rows, columns: as in `offset_bias`."""
    places = {"rows": rows, "columns": columns}
    return tiled_attention.Bias(partial(_Parts, **places), partial(offset_bias, **places))


class _Parts:
    """The bias of some rows of queries, made from the table; and the table's gradient.

    The table's columns are chosen, or mixed, once: (heads, W, Y, w). The bias of some rows of queries is a choice, or a
    mixture, of the rows of that.
    """

    def __init__(self, table: Tensor, rows: Tensor, columns: Tensor):
        self.table = table
        rows, columns = (x.to(table.dtype) if x.is_floating_point() else x for x in (rows, columns))
        self.rows, self.columns = rows, columns
        by_column = table.permute(1, 2, 0).contiguous()  # (X, heads, Y)
        chosen = take(by_column, columns, 0).unflatten(0, columns.shape[:2])
        self.chosen = chosen.permute(2, 0, 3, 1).contiguous()
        self.of_chosen = torch.zeros(())

    def slices(self) -> list[slice]:
        heads, width, _, across = self.chosen.shape
        height, down = self.rows.shape[:2]
        step = max(1, tiled_attention.AT_A_TIME // (heads * width * down * across))
        return [slice(top, min(top + step, height)) for top in range(0, height, step)]

    def of(self, part: slice) -> Tensor:
        rows = self.rows[part].flatten(0, 1)
        own = rows @ self.chosen if rows.is_floating_point() else self.chosen.index_select(2, rows)
        return own.view(len(own), -1, self.rows.shape[1] * own.shape[3])

    def add_gradient(self, part: slice, grad: Tensor) -> None:
        if not self.of_chosen.ndim:
            self.of_chosen = torch.zeros_like(self.chosen)
        heads, width, _, across = self.chosen.shape
        rows, grad = self.rows[part].flatten(0, 1), grad.view(heads, width, -1, across)
        if rows.is_floating_point():
            self.of_chosen += rows.T @ grad
        else:
            self.of_chosen.index_add_(2, rows, grad)

    def gradient(self) -> Tensor:
        height, width, heads = self.table.shape
        grad = self.of_chosen.permute(1, 3, 0, 2).reshape(-1, heads * height)  # (W · w, heads · Y)
        if self.columns.is_floating_point():
            grad = self.columns.flatten(0, 1).T @ grad
        else:
            grad = grad.new_zeros(width, heads * height).index_add_(0, self.columns.flatten(), grad)
        return grad.view(width, heads, height).permute(2, 0, 1)
