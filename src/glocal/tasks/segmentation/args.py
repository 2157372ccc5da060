"""What a file of a segmentation model says of its head and its results, checked by type, range and size."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from glocal.errors import InvalidValueError

_Side = Annotated[int, Meta(ge=1, le=8192)]
_Level = Annotated[int, Meta(ge=0, le=255)]
_Color = Annotated[list[_Level], Meta(min_length=3, max_length=3)]
_Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Colors = Annotated[list[_Color], Meta(max_length=65536)]
Ids = Annotated[list[_Id], Meta(max_length=65536)]

Args = TypeVar("Args", bound=msgspec.Struct)


class SegmentationArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """head: its name. window: (side, stride) of the windows in which images are computed; None: whole images.

    colors: (red, green, blue) of each class, for pictures. ids: the value of each class in the data's masks.
    """

    head: Literal["semantic_fpn", "upernet", "mask2former"]
    window: Annotated[list[_Side], Meta(min_length=2, max_length=2)] | None = None
    colors: Colors = []
    ids: Ids = []

    def __post_init__(self):
        if self.window is not None and self.window[1] > self.window[0]:
            raise InvalidValueError(f"the stride of the windows, {self.window[1]}, is larger than the window")


def check(args: dict[str, Any], kind: type[Args] = SegmentationArgs) -> Args:
    """The arguments of a file; ValueError for anything else."""
    try:
        return msgspec.convert(args, kind)
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"task_args: {error}") from None
