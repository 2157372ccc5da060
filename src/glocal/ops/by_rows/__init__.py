"""A function of many rows, some of them at a time, to bound the memory that it takes."""

from collections.abc import Callable

from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.by_rows import reference

__all__ = ["by_rows"]

NO_KERNEL = "it calls a function part by part"


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, numbers_per_row: int, most: int) -> Tensor:
    """function(x) for a function that treats every row of x, (n, …), by itself, in parts of as many rows as fit.

    In a graph the function gets all rows at once: no size may decide how many parts there are.

    Args:
        numbers_per_row: how many the function computes for a row.
        most: how many it may compute at a time, but at least a row.
    """
    return function(x) if dispatch.sizes_are_open() else reference.by_rows(function, x, numbers_per_row, most)
