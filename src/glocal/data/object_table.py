"""All objects of a part of a data set as one table: what cannot be used is counted and named, the rest goes to images.

A part may have a million objects: whatever all of them need is done with arrays.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from glocal.data.image import is_strict
from glocal.data.objects import Objects, area_of, box_of, checked_segment, decode_segment
from glocal.data.orientation import Frame, Head, Settled, settled, turned
from glocal.data.samples import DataSource, Samples
from glocal.data.segments import areas_of_polygons
from glocal.errors import InvalidValueError
from glocal.wording import counted

UNKNOWN = -1  # the number of a value that is none of those listed
FAR = 0.01  # of a side: how far a corner may be outside an image before all boxes are suspected
SUSPICIOUS = 0.5  # of the boxes


@dataclass
class Faults:
    """What is left out of a file, by what it is and why: how often, and the first. place: the file or folder."""

    place: Any
    found: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, what: str, why: str, first: str, count: int = 1) -> None:
        before, first_before = self.found.get((what, why), (0, first))
        self.found[what, why] = before + count, first_before

    def add_rows(self, what: str, why: str, bad: np.ndarray, name: Callable[[int], str]) -> None:
        """Add the rows that are `bad` (M,) bool, if there are any. name: of a row."""
        if bad.any():
            self.add(what, why, name(int(np.argmax(bad))), int(bad.sum()))

    def messages(self) -> list[str]:
        return [
            f"{counted(count, what)} {why}, the first: {first}" for (what, why), (count, first) in self.found.items()
        ]

    def note(self, notes: list[str]) -> None:
        """Add a line for each kind to `notes`; ValueError with the first if `is_strict`."""
        for message in self.messages():
            if is_strict():
                raise InvalidValueError(f"{self.place}: {message} (refused with --strict)")
            notes.append(f"{self.place}: left out {message}")


@dataclass
class ObjectTable:
    """Objects in rows. boxes: (M, 4), x1, y1, x2, y2 in pixels; NaN where a segment has to say it.

    images: (M,), the place of each object's image. areas: NaN where the data does not say it. segments: JSON of COCO,
    or None; [] if there are none. name: what to call the object of a row for people.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segments: list[bytes | None]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def without(self, bad: np.ndarray, why: str, faults: Faults) -> "ObjectTable":
        """The table without the rows that are `bad` (M,), which become a fault."""
        faults.add_rows("object", why, bad, self.name)
        return self.only(~bad) if bad.any() else self

    def only(self, keep: np.ndarray) -> "ObjectTable":
        rows, name = np.flatnonzero(keep), self.name
        return ObjectTable(
            self.images[rows],
            self.labels[rows],
            self.boxes[rows],
            self.crowd[rows],
            self.areas[rows],
            [self.segments[row] for row in rows] if self.segments else [],
            lambda row: name(int(rows[row])),
        )


class Photo(NamedTuple):
    """An image of a part. image: as `Samples.images` has it. name: for people. said: the size in the annotations."""

    image: Any
    name: str
    said: tuple[int, int] | None = None


def frames_of(
    photos: Sequence[Photo], heads: Sequence[Head | None], given: Frame | None, faults: Faults, notes: list[str]
) -> list[Settled]:
    """What the boxes of each image are of; see `settled`. Images with a fault become faults."""
    frames = settled([photo.said for photo in photos], heads, given)
    assumed = [(photo, frame) for photo, frame in zip(photos, frames, strict=True) if frame.assumed]
    if assumed:
        kind = "upright" if assumed[0][1].turn == 1 else "stored"
        notes.append(
            f"{faults.place}: {counted(len(assumed), 'image')} turned by EXIF, where the size does not tell of which "
            f"picture the boxes are, taken as the others: of the {kind} one; the first: {assumed[0][0].name}"
        )
    for photo, head, frame in zip(photos, heads, frames, strict=True):
        if frame.fault:
            height, width = head.size
            hint = " (--data-args '{orientation: upright}' or stored says it)" if head.orientation > 1 else ""
            hint = hint if photo.said in (None, head.size, head.upright) else ""
            faults.add("image", frame.fault, f"{photo.name} of {width}×{height} pixels{hint}")
    return frames


def samples_of(photos: Sequence[Photo], frames: Sequence[Settled], table: ObjectTable, faults: Faults) -> Samples:
    """The images without a fault, with their objects upright; what is wrong with an object becomes a fault."""
    table = _checked(table, frames, faults)
    order = np.argsort(table.images, kind="stable")
    ends = np.searchsorted(table.images[order], np.arange(len(photos) + 1))
    images, annotations = [], []
    for place, (photo, frame) in enumerate(zip(photos, frames, strict=True)):
        if frame.fault:
            continue
        rows = order[ends[place] : ends[place + 1]]
        segments = tuple(table.segments[row] for row in rows) if table.segments else ()
        objects = Objects(
            table.boxes[rows],
            table.labels[rows],
            table.crowd[rows],
            table.areas[rows],
            () if None in segments else segments,
            frame.size,
        )
        images.append(photo.image)
        annotations.append(turned(objects, frame.size, frame.turn))
    if not images:
        reason = next(iter(faults.messages()), "none is there")
        raise InvalidValueError(f"{faults.place}: no image can be used with its boxes: {reason}")
    return Samples(images, annotations)


def _checked(table: ObjectTable, frames: Sequence[Settled], faults: Faults) -> ObjectTable:
    """The objects that can be used, with boxes inside their images, and with areas."""
    used = np.array([not frame.fault for frame in frames], bool)
    table = table.only(used[table.images]) if not used.all() else table
    if table.segments:
        table = _with_segments(table, frames, faults)
    table = table.without(np.isnan(table.boxes).all(1), "without a box", faults)
    table = table.without(~np.isfinite(table.boxes).all(1), "with a box of NaN or infinite numbers", faults)
    table = table.without(
        (table.boxes[:, 2:] <= table.boxes[:, :2]).any(1), "with a box whose width or height is not above zero", faults
    )
    sizes = np.array([frame.size or (np.inf, np.inf) for frame in frames], np.float64).reshape(-1, 2)
    ends = sizes[table.images][:, [1, 0, 1, 0]]
    table.boxes = np.clip(table.boxes, 0, ends)
    table = table.without((table.boxes[:, 2:] <= table.boxes[:, :2]).any(1), "with a box outside the image", faults)
    unsaid = np.flatnonzero(~(np.isfinite(table.areas) & (table.areas > 0)))
    widths = table.boxes[:, 2:] - table.boxes[:, :2]
    table.areas[unsaid] = widths[unsaid].prod(1)
    if table.segments:
        _fill_areas(table, frames, unsaid)
    return table


def _fill_areas(table: ObjectTable, frames: Sequence[Settled], rows: np.ndarray) -> None:
    """Replace the areas of some rows by the pixels of their segments, where these have any."""
    alone, polygons, sizes = [], [], []
    for row in rows.tolist():
        segment, size = table.segments[row], frames[table.images[row]].size
        if segment is None or size is None:
            continue
        found = decode_segment(segment)
        if isinstance(found, list) and len(found) == 1:
            alone.append(row)
            polygons.append(found[0])
            sizes.append(size)
        else:
            table.areas[row] = area_of(found, size) or table.areas[row]
    areas = areas_of_polygons(polygons, sizes)
    table.areas[alone] = np.where(areas > 0, areas, table.areas[alone])


def _with_segments(table: ObjectTable, frames: Sequence[Settled], faults: Faults) -> ObjectTable:
    """The table with segments that are sound, and with boxes around them where it has none."""
    bad = np.zeros(len(table), bool)
    boxless = np.isnan(table.boxes).all(1)
    for row, segment in enumerate(table.segments):
        if segment is None:
            continue
        size = frames[table.images[row]].size
        try:
            table.segments[row], short = checked_segment(segment, size)
            if boxless[row] and size is not None:
                table.boxes[row] = box_of(decode_segment(table.segments[row]), size)
        except ValueError as error:
            bad[row] = True
            faults.add("object", "whose segment is broken", f"{table.name(row)}: {error}")
            continue
        if short:
            faults.add("polygon", "of less than three corners", table.name(row), short)
    return table.only(~bad) if bad.any() else table


def refuse_corners(table: ObjectTable, photos: Sequence[Photo], faults: Faults, hint: str) -> None:
    """Raise ValueError if boxes that should be x, y, width, height are x1, y1, x2, y2 instead.

    They are if most reach beyond their images, and all are inside if their last two numbers are a corner.
    """
    sizes = np.array([photo.said or (np.inf, np.inf) for photo in photos], np.float64).reshape(-1, 2)
    boxes = table.boxes
    whole = np.isfinite(boxes).all(1)
    boxes, ends = boxes[whole], sizes[table.images[whole]][:, ::-1]
    far = (boxes[:, 2:] > ends * (1 + FAR) + 1).any(1)
    corners = boxes[:, 2:] - boxes[:, :2]
    inside = ((corners > boxes[:, :2]) & (corners <= ends + 1)).all(1)
    if len(far) and far.mean() > SUSPICIOUS and inside.all():
        raise InvalidValueError(
            f"{faults.place}: {int(far.sum()):,} of {len(far):,} boxes reach beyond "
            f"their images: they look like x1, y1, x2, y2, and are read as x, y, width, height{hint}"
        )


def known(values: Iterable, number: dict) -> np.ndarray:
    """The number of each value (M,) int64; UNKNOWN for a value that has none."""
    return np.fromiter((number.get(value, UNKNOWN) for value in values), np.int64)


def detection_source(name: str, class_names: list[str], ids: list[int], splits: dict[str, Samples], notes: list[str]):
    """The data set of parts with `Objects`."""
    every = [objects for samples in splits.values() for objects in samples.labels]
    count = sum(map(len, every))
    with_segments = sum(len(objects.segments) for objects in every)
    if not count:
        reason = next((f" that can be used: {note}" for note in notes if "left out" in note), "")
        raise InvalidValueError(f"{name} holds no objects{reason}")
    if 0 < with_segments < count:
        notes.append(f"{name}: images with {count - with_segments:,} objects have no segment of each: boxes alone")
    about = {"ids": ids, "masks": with_segments == count}
    return DataSource(name, class_names, splits, notes=notes, task="detection", about=about)


def strata_of(samples: Samples) -> list[tuple[int, ...]]:
    """The classes of each image, of which a part to validate on is to have its share."""
    return [tuple(np.unique(objects.labels).tolist()) for objects in samples.labels]
