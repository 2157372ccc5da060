"""Attention to a few places of several maps."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from glocal.errors import InvalidValueError
from glocal.ops import dispatch
from glocal.ops.deformable_attention import reference

__all__ = ["deformable_attention"]


def deformable_attention(values: Tensor, sizes: Sequence[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """Σ over levels and points of weight · map(place), for every query and head.

    Args:
        values: (B, N, heads, d), the positions of all maps row by row, one map after the other: N = Σ h·w.
        sizes: (h, w) of each map.
        places: (B, Q, heads, levels, points, 2), each (x, y) with 0 and 1 at the borders of the map. The centre of
            position i of n is at (i + 0.5) / n. A map is bilinear between the centres, and zero outside.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads·d), in the highest of the types of the tensors.

    Raises:
        ValueError: the sizes are of other maps. (Graphs do not ask: their sizes may be open.)

    Source: arXiv 2010.04159, equation 3.
    """
    if not dispatch.sizes_are_open() and (wrong := _misfit(values, sizes, places)):
        raise InvalidValueError(wrong)
    limits = partial(_limits, values, sizes, places, weights)
    if dispatch.can_use_triton("deformable_attention", [values, places, weights], limits):
        from glocal.ops.deformable_attention import triton

        return triton.deformable_attention(values, sizes, places, weights)
    return reference.deformable_attention(values, sizes, places, weights)


def _limits(values: Tensor, sizes: Sequence[tuple[int, int]], places: Tensor, weights: Tensor) -> str | None:
    batch, _, heads, dim = values.shape
    if dim > 128:
        return f"heads of {dim} channels are wider than 128"
    if wrong := _misfit(values, sizes, places):
        return wrong
    shape = (batch, places.shape[1], heads, len(sizes), places.shape[4])
    cells = batch * heads * sum((height + 1) * (width + 1) for height, width in sizes)
    if cells > dispatch.MOST_ELEMENTS:
        return f"the maps of all heads have more than {dispatch.MOST_ELEMENTS:,} cells"
    wrong = dispatch.other_shapes(places=(places, (*shape, 2)), weights=(weights, shape))
    return wrong or dispatch.too_many(batch * heads)


def _misfit(values: Tensor, sizes: Sequence[tuple[int, int]], places: Tensor) -> str | None:
    """Why the sizes are not those of the maps; None if they are."""
    count = sum(height * width for height, width in sizes)
    if count != values.shape[1]:
        return f"maps of the sizes {list(sizes)} have {count} positions, and there are {values.shape[1]} values"
    if len(sizes) != places.shape[3]:
        return f"there are sizes of {len(sizes)} maps, and places in {places.shape[3]}"
    return None
