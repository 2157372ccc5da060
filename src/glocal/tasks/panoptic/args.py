"""What a file of a panoptic model says of its classes and its results, checked by type, range and size."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from glocal.tasks.segmentation.args import Colors, Ids

_Part = Annotated[float, Meta(ge=0, le=1)]


class PanopticArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """head: its name. things: whether the objects of each class are counted. The thresholds are those of the options.

    colors: (red, green, blue) of each class. ids: the number of each class in the data.
    """

    head: Literal["mask2former"]
    things: Annotated[list[bool], Meta(max_length=65536)]
    segment_threshold: _Part
    overlap_threshold: _Part
    colors: Colors = []
    ids: Ids = []
