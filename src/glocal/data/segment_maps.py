"""Segment maps: a class and an object for every pixel of an image."""

from typing import NamedTuple, Protocol

import numpy as np

from glocal.data.masks import LabelMap


class SegmentIds(NamedTuple):
    """The segments of an image.

    ids: (H, W) int32, the place of each pixel's segment in the other two, or IGNORE. classes: (S,) int32; a class that
    is a thing may have several segments. crowd: (S,) bool, segments that hold objects which nobody told apart.
    """

    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


class SegmentMap(LabelMap, Protocol):
    """A label map that also tells objects apart."""

    def load_segments(self, size: tuple[int, int]) -> SegmentIds:
        """The segments; size and errors as of `load`. The class of each pixel's segment is that of `load`."""
