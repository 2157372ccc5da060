"""A function of many rows, some of them at a time, to bound the memory that it takes."""

from collections.abc import Callable

from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.by_rows import reference

__all__ = ["by_rows"]

NO_KERNEL = "it calls a function part by part"


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """function(x) for a function that treats every row of x, (n, …), by itself: `rows` of them at a time.

    In a graph the function gets all rows at once: the number of parts may not depend on a size.
    """
    return function(x) if dispatch.sizes_are_open() else reference.by_rows(function, x, rows)
