"""YOLO's files of labels: a line for each object, a class and a box or a polygon in shares of the image's sides."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from glocal.data.object_table import UNKNOWN, Faults, ObjectTable, Photo
from glocal.data.orientation import Settled
from glocal.errors import InvalidValueError, path_error
from glocal.wording import counted, quoted

IMAGES, LABELS = "images", "labels"  # folders
MOST_BYTES = 256 << 20  # of a file of labels, or of a list of images
OUTSIDE = 1.5  # a coordinate beyond it is no share of a side


def text_of(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InvalidValueError(f"{file} has {file.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start:,})") from None
    except OSError as error:
        raise path_error(error, f"{file} cannot be read: {error.strerror}") from None


def labels_of(image: str) -> str:
    """The file of labels of an image: in the folder labels in the place of the last folder images, or beside it."""
    folder, name = os.path.split(os.path.splitext(image)[0])
    parts = folder.split(os.sep)
    for place in reversed(range(len(parts))):
        if parts[place] == IMAGES:
            return os.sep.join([*parts[:place], LABELS, *parts[place + 1 :], f"{name}.txt"])
    return os.path.join(folder, f"{name}.txt")


def table_of(
    photos: Sequence[Photo],
    frames: Sequence[Settled],
    classes: int,
    keypoints: int,
    faults: Faults,
    notes: list[str],
) -> ObjectTable:
    """The objects of all images; a line that is none becomes a fault. Without a file, an image has no objects.

    classes: their number. keypoints: how many numbers at the end of a line say them; they are not read.
    """
    found, missing, segments = [], [], []
    counts, numbers = np.zeros(len(photos), np.int64), []
    stems: dict[str, str] = {}
    for place, photo in enumerate(photos):
        file = labels_of(photo.image)
        if stems.setdefault(file, photo.image) != photo.image:
            raise InvalidValueError(f"{quoted([stems[file], photo.image])} have one file of labels, {file}")
        if not os.path.isfile(file):
            missing.append(photo.image)
        elif frames[place].size is not None:  # else the image cannot be read, and its boxes have no pixels
            rows, of_lines, of_rows = _rows(Path(file), keypoints, faults)
            counts[place] = len(rows)
            found.append(rows)
            numbers.append(np.array(of_lines, np.int64))
            segments += of_rows
    if missing:
        if len(missing) == len(photos):
            raise InvalidValueError(
                f"{faults.place}: no image has a file of labels, for instance {labels_of(missing[0])}"
            )
        notes.append(
            f"{faults.place}: {counted(len(missing), 'image')} without a file of labels, taken as images without "
            f"objects; the first: {missing[0]}"
        )
    rows = np.concatenate(found) if found else np.zeros((0, 5))
    lines = np.concatenate(numbers) if found else np.zeros(0, np.int64)
    images = np.repeat(np.arange(len(photos)), counts)

    def name(row: int) -> str:
        return f"{labels_of(photos[images[row]].image)}, line {lines[row]:,}"

    _refuse_pixels(rows, faults, name)
    sizes = np.array([frame.size or (np.nan, np.nan) for frame in frames], np.float64).reshape(-1, 2)[images][:, ::-1]
    middles, halves = rows[:, 1:3] * sizes, rows[:, 3:] * sizes / 2
    labels = np.where(np.isin(rows[:, 0], np.arange(classes)), rows[:, 0], UNKNOWN).astype(np.int64)
    scaled = [None if one is None else _scaled(one, size) for one, size in zip(segments, sizes.tolist(), strict=True)]
    table = ObjectTable(
        images,
        labels,
        np.concatenate([middles - halves, middles + halves], 1),
        np.zeros(len(rows), bool),
        np.full(len(rows), np.nan),
        scaled if any(scaled) else [],
        name,
    )
    twice = np.ones(len(rows), bool)
    marks = [0 if one is None else hash(one) % (1 << 52) for one in scaled]
    twice[np.unique(np.column_stack([images, rows, marks]), axis=0, return_index=True)[1]] = False
    bad = labels == UNKNOWN
    faults.add_rows("object", f"of a class that is not among the {classes}", bad, table.name)
    faults.add_rows("object", "written twice", twice & ~bad, table.name)
    return table.only(~(bad | twice)) if (bad | twice).any() else table


def _refuse_pixels(rows: np.ndarray, faults: Faults, name: Callable[[int], str]) -> None:
    """Raise ValueError if most boxes are in pixels instead of shares of the image's sides."""
    far = (np.abs(rows[:, 1:]) > OUTSIDE).any(1)
    if len(rows) and far.mean() > 0.5:
        raise InvalidValueError(
            f"{faults.place}: {int(far.sum()):,} of {len(rows):,} boxes have numbers above 1, which should be shares "
            f"of the image's width and height: the first is {name(int(np.argmax(far)))}"
        )


def _rows(file: Path, keypoints: int, faults: Faults) -> tuple[np.ndarray, list[int], list[list[float] | None]]:
    """The class and the box (N, 5) of each line of a file, its number, and its polygon if it has one."""
    try:
        lines = text_of(file).splitlines()
    except InvalidValueError as error:
        faults.add("file of labels", "that cannot be read", str(error))
        return np.zeros((0, 5)), [], []
    cells = [line.split() for line in lines]
    numbers = [number for number, row in enumerate(cells, 1) if row]
    cells = [row for row in cells if row]
    if all(len(row) == 5 for row in cells):
        try:
            return np.array(cells, np.float64).reshape(-1, 5), numbers, [None] * len(cells)
        except ValueError:  # a line at least is not of numbers
            pass
    rows, kept, polygons = [], [], []
    for number, row in zip(numbers, cells, strict=True):
        try:
            values = [float(cell) for cell in row]
            box, polygon = _box(values, keypoints)
        except ValueError as error:
            why = "of other than numbers" if "could not convert" in str(error) else str(error)
            faults.add("line", why, f"{file}, line {number:,}")
            continue
        rows.append(box)
        kept.append(number)
        polygons.append(polygon)
    return np.array(rows, np.float64).reshape(-1, 5), kept, polygons


def _box(values: list[float], keypoints: int) -> tuple[list[float], list[float] | None]:
    """The class and the box of a line, and its polygon: x and y of each corner in the place of the box."""
    if len(values) == 5 or (keypoints and len(values) == 5 + keypoints):
        return values[:5], None
    if keypoints or len(values) < 7 or len(values) % 2 == 0:
        raise InvalidValueError("that is neither a class with a box, nor one with a polygon of three corners")
    x, y = np.array(values[1:]).reshape(-1, 2).T
    (left, right), (top, bottom) = (x.min(), x.max()), (y.min(), y.max())
    return [values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top], values[1:]


def _scaled(polygon: list[float], size: list[float]) -> bytes:
    """A polygon in shares of (width, height) as a segment in pixels."""
    return msgspec.json.encode([(np.array(polygon).reshape(-1, 2) * size).ravel().tolist()])
