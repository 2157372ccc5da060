"""Options of panoptic segmentation."""

from dataclasses import dataclass
from typing import ClassVar

from glocal.options import PART, Range
from glocal.tasks.segmentation.options import DenseOptions


@dataclass(frozen=True)
class PanopticOptions(DenseOptions):
    """What becomes a segment, how whole images are taken, and their random changes in training.

    Args:
        segment_threshold: a query is a segment if its class has a higher probability
        overlap_threshold: a segment is left out if other segments leave it a smaller part of its mask
    """

    RANGES: ClassVar[dict[str, Range]] = {**DenseOptions.RANGES, "segment_threshold": PART, "overlap_threshold": PART}
    REQUESTS: ClassVar[tuple[str, ...]] = ("whole", "segment_threshold", "overlap_threshold")

    segment_threshold: float = 0.8
    overlap_threshold: float = 0.8


@dataclass(frozen=True)
class PanopticEvalOptions:
    """What becomes a segment of a panoptic segmentation.

    Args:
        segment_threshold: a query is a segment if its class has a higher probability (default: as in the training)
        overlap_threshold: a segment is left out if other segments leave it a smaller part of its mask (default: as in
            the training)
    """

    RANGES: ClassVar[dict[str, Range]] = {"segment_threshold": PART, "overlap_threshold": PART}

    segment_threshold: float | None = None
    overlap_threshold: float | None = None
