"""Values of maps at points between their positions."""

from torch import Tensor

from glocal.ops.sample_points import reference

__all__ = ["sample_points"]

NO_KERNEL = "torch samples the maps"


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """The bilinear values of (B, C, H, W) maps at (B, P, 2) points, (B, C, P).

    points: (x, y) with 0 and 1 at the borders of the map. The centre of position i of n is at (i + 0.5) / n. A map is
    zero outside. The result is in the higher of the two types.

    Source: arXiv 1912.08193 (PointRend), section 3.1.
    """
    return reference.sample_points(maps, points)
