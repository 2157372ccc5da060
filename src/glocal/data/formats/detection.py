"""The formats of detection, and of instance segmentation where every object has a segment."""

from glocal.data.formats import coco_objects, huggingface, shape_objects, shards, voc_objects, yolo
from glocal.data.open import Format, OpenedFor
from glocal.data.samples import DataSource
from glocal.errors import InvalidValueError

FORMATS: tuple[Format, ...] = (huggingface, shards, coco_objects, voc_objects, yolo, shape_objects)


def check_segments(source: DataSource) -> None:
    """Raise ValueError for data without a segment of each object."""
    if not source.about["masks"]:
        raise InvalidValueError(f"{source.name} has boxes, and no segment of each object: use --task detection")


INSTANCE_FORMATS: tuple[Format, ...] = tuple(
    OpenedFor(one, "detection", "instances", check_segments) for one in FORMATS
)
