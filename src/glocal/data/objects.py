"""The objects of an image: boxes with their classes, and masks where the data has them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from glocal.data.segments import FARTHEST, mask_of_polygons, mask_of_runs, runs_of_text
from glocal.errors import InvalidValueError
from glocal.wording import one_line

Side = Annotated[int, Meta(ge=1, le=1 << 20)]
Corners = Annotated[list[float], Meta(min_length=6)]  # x and y of each corner of a polygon


class Runs(msgspec.Struct):
    """Run lengths as COCO writes them, as numbers or as a text. size: (height, width)."""

    size: tuple[Side, Side]
    counts: str | list[int]

    @property
    def numbers(self) -> list[int]:
        return runs_of_text(self.counts) if isinstance(self.counts, str) else self.counts


Segmentation = Runs | list[Corners]


@dataclass(frozen=True, eq=False)
class Objects:
    """The annotation of an image for detection. N may be 0: nothing to find is an annotation, too.

    boxes: (N, 4) float64, x1, y1, x2, y2 in pixels of the upright image, from the left and the top, 0 ≤ x1 < x2 ≤ W.
    labels: (N,) int64, the class of each. crowd: (N,) bool, regions of objects that nobody told apart, and objects that
    count neither as found nor as missed. areas: (N,) float64, in pixels, as the data says them; else of the mask, else
    of the box. segments: a segmentation of COCO for each object, as JSON (bytes are smaller than arrays, and exact); ()
    where not every object has one. size: (height, width) of the upright image; None where neither the data nor the
    image's file says it.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segments: tuple[bytes, ...] = ()
    size: tuple[int, int] | None = None

    def __post_init__(self):
        count = len(self.labels)
        for name, shape, kind in (
            ("boxes", (count, 4), np.float64),
            ("labels", (count,), np.int64),
            ("crowd", (count,), np.bool_),
            ("areas", (count,), np.float64),
        ):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind:
                raise ValueError(f"{name}: expected {shape} {kind.__name__}, got {array.shape} {array.dtype}")
        if self.segments and len(self.segments) != count:
            raise ValueError(f"segments: expected {count}, got {len(self.segments)}")

    @classmethod
    def none(cls, size: tuple[int, int] | None = None) -> "Objects":
        """The annotation of an image without objects."""
        return cls(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0), (), size)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_segments(self) -> bool:
        """Whether every object has a segment; true without objects."""
        return len(self.segments) == len(self)

    def subset(self, keep: np.ndarray | Sequence[int]) -> "Objects":
        """Some of the objects. keep: (N,) bool, or the places of those to keep, in their new order."""
        places = np.asarray(keep)
        places = np.flatnonzero(places) if places.dtype == np.bool_ else places.astype(np.int64)
        arrays = {name: getattr(self, name)[places] for name in ("boxes", "labels", "crowd", "areas")}
        return replace(self, **arrays, segments=tuple(self.segments[i] for i in places) if self.segments else ())

    def masks(self, size: tuple[int, int]) -> np.ndarray:
        """The masks (N, H, W) bool. size: (height, width) of the image.

        A polygon holds the pixels whose middles are inside. Raises ValueError without segments, or if they are of an
        image of another size.
        """
        if not self.has_segments:
            raise InvalidValueError("the data has boxes, and no segment for each object")
        if self.size is not None and tuple(size) != tuple(self.size):
            shown = [f"{width}×{height}" for height, width in (self.size, size)]
            raise InvalidValueError(f"the segments are of an image of {shown[0]} pixels, not of {shown[1]}")
        found = np.zeros((len(self), *size), bool)
        for place in range(len(self)):
            found[place] = mask_of(self.segmentation(place), size)
        return found

    def segmentation(self, place: int) -> Segmentation:
        """The segment of an object: a list of polygons [x1, y1, x2, y2, …], or `Runs`."""
        return decode_segment(self.segments[place])

    def content(self) -> str:
        """A text that tells the objects from others."""
        digest = sha256(repr(self.size).encode())
        for array in (self.boxes, self.labels, self.crowd, self.areas):
            digest.update(np.ascontiguousarray(array).tobytes())
        for segment in self.segments:
            digest.update(segment)
        return digest.hexdigest()


def classes_of_images(annotations: Sequence[Objects], count: int) -> np.ndarray:
    """(N, count) bool: the classes of which an image has an object, a crowd or not."""
    images = np.repeat(np.arange(len(annotations)), [len(objects) for objects in annotations])
    found = np.zeros((len(annotations), count), bool)
    if len(images):
        found[images, np.concatenate([objects.labels for objects in annotations])] = True
    return found


_decoder = msgspec.json.Decoder(Segmentation)
_lenient = msgspec.json.Decoder(Runs | list[list[float]])


def decode_segment(segment: bytes) -> Segmentation:
    """A segmentation from its JSON; raises msgspec's errors for other content."""
    return _decoder.decode(segment)


def mask_of(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of a segmentation; ValueError for a broken one."""
    if isinstance(segmentation, Runs):
        return mask_of_runs(segmentation.numbers, size)
    return mask_of_polygons(segmentation, size)


def area_of(segmentation: Segmentation, size: tuple[int, int]) -> int:
    """The pixels of a mask; errors as of `mask_of`."""
    if isinstance(segmentation, Runs):
        return sum(segmentation.numbers[1::2])
    x1, y1, x2, y2 = box_of(segmentation, size)
    left, top = (math.floor(min(max(side, 0), most)) for side, most in ((x1, size[1]), (y1, size[0])))
    right, bottom = (math.ceil(min(max(side, 0), most)) for side, most in ((x2, size[1]), (y2, size[0])))
    moved = [np.array(polygon) - np.resize([left, top], len(polygon)) for polygon in segmentation]
    return int(np.count_nonzero(mask_of_polygons(moved, (bottom - top, right - left))))


def box_of(segmentation: Segmentation, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box x1, y1, x2, y2 around polygons, or around the pixels of run lengths; all are 0 where there are none."""
    if isinstance(segmentation, Runs):
        mask = mask_of(segmentation, size)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    return (*corners.min(0), *corners.max(0))


def checked_segment(segment: bytes, size: tuple[int, int] | None) -> tuple[bytes, int]:
    """A segmentation without its polygons of less than three corners, and their number.

    Raises ValueError if nothing is left, and for what is no segmentation of an image of (height, width).
    """
    try:
        found = _lenient.decode(segment)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidValueError(f"no segmentation of COCO ({one_line(error)})") from None
    if isinstance(found, Runs):
        height, width = found.size
        if size is not None and (height, width) != tuple(size):
            raise InvalidValueError(f"run lengths of {width}×{height} pixels, in an image of {size[1]}×{size[0]}")
        runs = found.numbers
        if any(not 0 <= run <= height * width for run in runs) or sum(runs) != height * width:
            raise InvalidValueError(f"run lengths that do not fill {width}×{height} pixels")
        return segment, 0
    good = [one for one in found if len(one) >= 6 and len(one) % 2 == 0 and max(map(abs, one)) < FARTHEST]
    if not good:
        raise InvalidValueError("no polygon of three corners, each with x and y near the image")
    # As written, unless it is laid out for people: then spaces would be most of it.
    dense = len(good) == len(found) and b"\n" not in segment
    return (segment if dense else msgspec.json.encode(good)), len(found) - len(good)
