"""What a file of a detection model says of its head and its results, checked by type, range and size."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from glocal.errors import InvalidValueError
from glocal.models.arguments import check_head_arguments
from glocal.models.detectors import DETECTORS
from glocal.tasks.segmentation.args import Ids
from glocal.tasks.segmentation.args import check as converted
from glocal.wording import shown


class DetectionArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """head: its name. head_args: its further arguments. score_threshold: of the options.

    ids: the number of each class in the data.
    """

    head: str
    score_threshold: Annotated[float, Meta(ge=0, le=1)]
    head_args: dict[str, Any] = {}
    ids: Ids = []


def check(args: Mapping[str, Any], heads: Sequence[str]) -> None:
    """Raise ValueError if a file may not give these arguments. heads: of the task."""
    found = converted(dict(args), DetectionArgs)
    if found.head not in heads:
        raise InvalidValueError(f"task_args: the heads are {', '.join(heads)}, not {shown(found.head)}")
    check_head_arguments(found.head, found.head_args, DETECTORS[found.head].head_args)
