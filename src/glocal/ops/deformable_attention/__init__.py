"""Attention to a few places of several maps."""

from collections.abc import Sequence

from torch import Tensor

from glocal.ops.deformable_attention import reference

__all__ = ["deformable_attention"]

NO_KERNEL = "torch samples the maps"


def deformable_attention(values: Tensor, sizes: Sequence[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """Σ over levels and points of weight · map(place), for every query and head.

    Args:
        values: (B, N, heads, d), the positions of all maps row by row, one map after the other: N = Σ h·w.
        sizes: (h, w) of each map.
        places: (B, Q, heads, levels, points, 2), each (x, y) with 0 and 1 at the borders of the map. The centre of
            position i of n is at (i + 0.5) / n. A map is bilinear between the centres, and zero outside.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads·d).

    Source: arXiv 2010.04159, equation 3.
    """
    return reference.deformable_attention(values, sizes, places, weights)
