"""Log-spaced offsets for graphs that take other sizes too: no size decides which offsets occur."""

from torch import Tensor

from glocal.ops.log_offsets.reference import spaced


def log_offsets(size: int, pooled: int, unit: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """All offsets at steps of half a position, also those that occur between no query and key."""
    return spaced(size, pooled, unit, like, reach=2 * size - 2, step=1)
