"""Objects in the rows of a table of the library `datasets`: a column of boxes with their classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from glocal.data.image import StoredImage
from glocal.data.names import class_name
from glocal.data.object_table import UNKNOWN, Faults, Photo, detection_source, frames_of, refuse_corners, samples_of
from glocal.data.orientation import Head, checked_frame, head_in, head_of
from glocal.data.row_objects import (
    CLASSES,
    HINT,
    are_objects,
    checked_boxes,
    classes_in,
    columns_of,
    name_of,
    table_of,
)
from glocal.data.samples import DataSource
from glocal.errors import InvalidValueError

if TYPE_CHECKING:
    import datasets

ARGS = ("objects", "boxes", "orientation")


class ImageOfRow(Protocol):
    """The image in a row of a table. table: with undecoded images. column: of the images."""

    table: "datasets.Dataset"
    column: str

    def stored(self) -> StoredImage:
        """The image with its content."""


def open_objects(
    data: str,
    tables: "Mapping[str, datasets.Dataset]",
    images: Mapping[str, Sequence[ImageOfRow]],
    column: str,
    args: Mapping[str, Any],
    notes: list[str],
) -> DataSource:
    """The data set of tables, by its parts, whose annotations are in a column. images: of each part, in its rows."""
    frame, corners = checked_frame(args.get("orientation")), checked_boxes(args.get("boxes"))
    records = {
        part: [
            columns_of(one, f"{data} ({part}), row {row}")
            for row, one in enumerate(table.with_format(None).select_columns([column])[column][:])
        ]
        for part, table in tables.items()
    }
    names, number = _classes(data, tables, column, records)
    splits = {}
    for part, table in tables.items():
        faults = Faults(f"{data} ({part})")
        photos = [Photo(one, str(one), said) for one, said in zip(images[part], _sizes(table), strict=True)]
        heads = _heads(images[part])
        frames = frames_of(photos, heads, frame, faults, notes)
        found = table_of(records[part], number, corners, lambda row, part=part: str(images[part][row]))
        found = found.without(found.labels == UNKNOWN, "of a class that is not listed", faults)
        if not corners:
            sized = [one._replace(said=of.size) for one, of in zip(photos, frames, strict=True)]
            refuse_corners(found, sized, faults, HINT)
        splits[part] = samples_of(photos, frames, found, faults)
        faults.note(notes)
    return detection_source(data, names, list(range(len(names))), splits, notes)


def object_columns(table: "datasets.Dataset") -> list[str]:
    """The columns whose values have a box and a class."""
    return [name for name, feature in table.features.items() if are_objects(_fields(feature))]


def _heads(images: Sequence[ImageOfRow]) -> list[Head | None]:
    """The head of each image, without reading the rest of it from the table where that is possible."""
    import pyarrow

    rows = images[0].table.with_format("arrow") if images else None
    heads = []
    for row, image in enumerate(images):
        content = rows[row][image.column][0].get("bytes")
        buffer = None if content is None else content.as_buffer()
        head = None if buffer is None else head_in(pyarrow.BufferReader(buffer))
        heads.append(head or head_of(image.stored()))
    return heads


def _classes(
    data: str, tables: "Mapping[str, datasets.Dataset]", column: str, records: Mapping[str, list[dict]]
) -> tuple[list[str], dict[Any, int]]:
    """The names of the classes, and the number of each value in the column."""
    inner = _fields(next(iter(tables.values())).features[column])
    feature = inner[name_of(inner, CLASSES)]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is not None:
        return [class_name(name) for name in names], {number: number for number in range(len(names))}
    values = {
        value for of_part in records.values() for one in of_part for value in classes_in(one) if value is not None
    }
    if not values or not (all(isinstance(one, str) for one in values) or all(isinstance(one, int) for one in values)):
        raise InvalidValueError(f"{data}: the classes in the column {column!r} are neither names nor whole numbers")
    ordered = sorted(values)
    return [class_name(str(value)) for value in ordered], {value: label for label, value in enumerate(ordered)}


def _sizes(table: "datasets.Dataset") -> list[tuple[int, int] | None]:
    """(height, width) of each row, as columns of these names say it."""
    if not {"height", "width"} <= set(table.column_names):
        return [None] * len(table)
    sides = (table.with_format(None).select_columns([side])[side][:] for side in ("height", "width"))
    return [
        (h, w) if isinstance(h, int) and isinstance(w, int) and h > 0 < w else None for h, w in zip(*sides, strict=True)
    ]


def _fields(feature: Any) -> dict[str, Any]:
    """The features inside a list of mappings, or inside a mapping of lists; {} for others."""
    feature = feature if isinstance(feature, dict) else getattr(feature, "feature", None)
    return feature if isinstance(feature, dict) else {}
