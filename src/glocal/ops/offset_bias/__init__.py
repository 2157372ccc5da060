"""A position bias that depends on the offset between a query and a key alone, from the table of all offsets."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.offset_bias import reference

__all__ = ["offset_bias", "written_as_a_whole"]

NO_KERNEL = "it copies numbers out of a table"
FEW = 2**18  # pairs of a query and a key: below, an attention that writes all of them is as fast


def offset_bias(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """bias[head, (y, x), (i, j)] = table[rows[y, i], columns[x, j], head], for queries H × W and keys h × w.

    Args:
        table: (Y, X, heads).
        rows: (H, h), the row of the table for a query's row and a key's; or, in the table's type, (H, h, Y): how much
            of every row, so that bias[…] = Σ rows[y, i, r] · columns[x, j, c] · table[r, c, head].
        columns: (W, w), or (W, w, X), likewise.

    Returns:
        (heads, H·W, h·w).
    """
    return reference.offset_bias(table, rows, columns)


def written_as_a_whole(queries: int, keys: int) -> bool:
    """Whether the bias of so many queries and keys shall be written, and not its table: also in a graph, where no size
    may decide."""
    return torch.jit.is_scripting() or dispatch.sizes_are_open() or queries * keys < FEW
