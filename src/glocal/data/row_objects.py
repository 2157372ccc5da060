"""Objects as rows of a table and samples of a shard have them: lists of boxes, of classes, and of more."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from glocal.data.object_table import ObjectTable, known
from glocal.errors import InvalidValueError
from glocal.wording import quoted, shown

# The names that are met, the first that there is.
BOXES = ("bbox", "bboxes", "box", "boxes")
CLASSES = ("category", "categories", "category_id", "category_ids", "label", "labels", "class", "class_id", "name")
CROWDS = ("iscrowd", "is_crowd", "crowd")
AREAS = ("area", "areas")
SEGMENTS = ("segmentation", "segmentations", "segments")
CORNERS, SIDES = "corners", "sides"  # the values of the argument `boxes`
HINT = " (--data-args '{boxes: corners}' says so)"

Columns = dict[str, Sequence[Any]]


def name_of(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first wanted name that there is."""
    there = set(names)
    return next((name for name in wanted if name in there), None)


def are_objects(names: Iterable[str]) -> bool:
    """Whether names are those of objects: a box and a class at least."""
    names = list(names)
    return name_of(names, BOXES) is not None and name_of(names, CLASSES) is not None


def columns_of(found: Any, name: str) -> Columns:
    """The objects of an image, a list of mappings or a mapping of lists, as lists. ValueError for others."""
    if found is None:
        return {}
    if isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
        names = dict.fromkeys(key for one in found for key in one)
        return {str(key): [one.get(key) for one in found] for key in names}
    if not isinstance(found, Mapping) or not all(isinstance(column, Sequence) for column in found.values()):
        raise InvalidValueError(f"{name}: expected a list of objects, got {shown(found)}")
    lengths = {len(column) for column in found.values()}
    if len(lengths) > 1:
        raise InvalidValueError(f"{name}: {quoted(list(map(str, found)))} have different numbers of objects")
    return dict(found)


def checked_boxes(given: Any) -> bool:
    """Whether the argument `boxes` of a layout says that boxes are corners; ValueError for another value."""
    if given not in (None, CORNERS, SIDES):
        raise InvalidValueError(
            f"boxes must be corners (x1, y1, x2, y2) or sides (x, y, width, height), got {shown(given)}"
        )
    return given == CORNERS


def table_of(
    records: Sequence[Columns], number: Mapping[Any, int], corners: bool, name: Callable[[int], str]
) -> ObjectTable:
    """The objects of images. number: of each class. corners: as `checked_boxes` has it. name: of an image."""
    rows: dict[str, list] = {kind: [] for kind in ("image", "place", "class", "box", "crowd", "area", "segment")}
    for image, columns in enumerate(records):
        box, label = name_of(columns, BOXES), name_of(columns, CLASSES)
        count = len(next(iter(columns.values()), ()))
        if count and (box is None or label is None):
            raise InvalidValueError(f"{name(image)}: objects have a box and a category, here {quoted(list(columns))}")
        rows["image"] += [image] * count
        rows["place"] += range(count)
        for kind, wanted in (
            ("class", CLASSES),
            ("box", BOXES),
            ("crowd", CROWDS),
            ("area", AREAS),
            ("segment", SEGMENTS),
        ):
            column = name_of(columns, wanted)
            rows[kind] += [None] * count if column is None else columns[column]
    boxes = np.array([_four(one) for one in rows["box"]], np.float64).reshape(-1, 4)
    if not corners:
        boxes[:, 2:] += boxes[:, :2]
    segments = [_segment(one) for one in rows["segment"]]
    return ObjectTable(
        np.array(rows["image"], np.int64),
        known(map(_key, rows["class"]), dict(number)),
        boxes,
        np.array([bool(one) for one in rows["crowd"]], bool),
        np.array([_number(one) for one in rows["area"]], np.float64),
        segments if any(segments) else [],
        lambda row: f"{name(rows['image'][row])}, object {rows['place'][row] + 1}",
    )


def classes_in(columns: Columns) -> list[Any]:
    """The class of each object."""
    name = name_of(columns, CLASSES)
    return [] if name is None else list(columns[name])


def with_texts(columns: Columns) -> Columns:
    """The same, with texts for the names and the numbers of classes."""
    name = name_of(columns, CLASSES)
    return columns if name is None else {**columns, name: [_text(value) for value in columns[name]]}


def _text(value: Any) -> str | None:
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _key(value: Any) -> Any:
    """A class that can be looked up."""
    return value.strip() if isinstance(value, str) else value if isinstance(value, int) else None


def _four(box: Any) -> list[float]:
    """Four numbers; NaN for those that are none. A box of other than four ends as NaN and a number: it is no box."""
    numbers = [_number(one) for one in box] if isinstance(box, Sequence) and not isinstance(box, str) else []
    return numbers if len(numbers) == 4 else [0.0, 0.0, 0.0, np.nan] if numbers else [np.nan] * 4


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan


def _segment(found: Any) -> bytes | None:
    """A segment as JSON. A list of numbers is one polygon."""
    if not found:
        return None
    if isinstance(found, Sequence) and not isinstance(found, str) and isinstance(found[0], (int, float)):
        found = [found]
    try:
        return msgspec.json.encode(found)
    except (TypeError, ValueError):
        return b"0"  # which is no segment
