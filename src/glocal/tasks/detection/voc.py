"""Average precision of PASCAL VOC: https://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc, section 4.4."""

from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from glocal.tasks.detection.precision import Rows

IOU = 0.5  # from which on a box is of an object
POINTS = 10  # recalls 0, 0.1, … 1 of VOC2007, in tenths


class Average(NamedTuple):
    """AP50 of a class in percent. points: of VOC2007, the mean of the precision at 11 recalls. area: since VOC2010, the
    area below the precision over the recall.
    """

    points: float
    area: float


def averages(found: Rows, objects: Rows, classes: int) -> list[Average | None]:
    """AP50 of the boxes of each class; None for a class without an object.

    Each box is compared with the object of its class that it overlaps most. It is right if their IoU is at least 0.5
    and no surer box has the object; it counts nowhere if the object is difficult (`crowd`), which nobody has to find.
    Otherwise it is wrong, also where it overlaps another object enough, which COCO would give to it. All boxes of an
    image count, and equal scores as they come.
    """
    return [_average(*(rows_of(rows, label) for rows in (found, objects))) for label in range(classes)]


def rows_of(rows: Rows, label: int) -> Rows:
    """The rows of a class, by their images."""
    places = np.flatnonzero(rows.labels == label)
    places = places[np.argsort(rows.images[places], kind="stable")]
    columns = {name: getattr(rows, name) for name in ("images", "boxes", "labels", "scores", "crowd", "areas")}
    return Rows(**{name: None if column is None else column[places] for name, column in columns.items()})


def _average(found: Rows, objects: Rows) -> Average | None:
    """The average of a class. found, objects: its rows by their images."""
    wanted = int((~objects.crowd).sum())
    if not wanted:
        return None
    overlap, nearest = nearest_objects(found, objects)
    order = np.argsort(-found.scores, kind="stable")
    overlap, nearest = overlap[order], nearest[order]
    enough = overlap >= IOU
    difficult = np.zeros(len(order), bool)
    difficult[enough] = objects.crowd[nearest[enough]]
    right = np.zeros(len(order), bool)
    places = np.flatnonzero(enough)
    right[places[np.unique(nearest[places], return_index=True)[1]]] = True  # the surest of each object
    right = right[~difficult]
    hits = right.cumsum()
    return Average(*(100 * float(value) for value in (by_points(hits, wanted), by_area(hits, wanted))))


def nearest_objects(found: Rows, objects: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of each box (N,) the largest IoU with an object of its image, and the place of this object; 0 and 0 for none."""
    overlap, nearest = np.zeros(len(found.images)), np.zeros(len(found.images), np.int64)
    images, firsts, counts = np.unique(found.images, return_index=True, return_counts=True)
    for image, start, count in zip(images, firsts, counts, strict=True):
        boxes = slice(start, start + count)
        first, last = np.searchsorted(objects.images, (image, image + 1))
        if first < last:
            pair = (torch.from_numpy(rows) for rows in (found.boxes[boxes], objects.boxes[first:last]))
            overlaps = box_iou(*pair).numpy()
            nearest[boxes] = first + overlaps.argmax(1)
            overlap[boxes] = overlaps.max(1)
    return overlap, nearest


def by_points(hits: np.ndarray, wanted: int) -> float:
    """The mean over 11 recalls of the best precision at this recall or more, 0 where it is not reached.

    hits: (N,), how many of the first 1, 2, … boxes are right. wanted: objects. The recalls are compared as whole
    numbers: 3 of 10 objects reach 0.3, which is no float.
    """
    precision = hits / np.arange(1, len(hits) + 1)
    reached = [precision[POINTS * hits >= tenth * wanted] for tenth in range(POINTS + 1)]
    return sum(part.max() if part.size else 0.0 for part in reached) / (POINTS + 1)


def by_area(hits: np.ndarray, wanted: int) -> float:
    """The area below the precision, made to fall, over the recall; arguments as of `by_points`."""
    precision = hits / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((falling * np.diff(hits, prepend=0)).sum() / wanted)
