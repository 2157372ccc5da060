"""The heads of image files, and what their EXIF orientation does to boxes and segments.

An annotation may be of the picture as the file stores it, or of the upright picture; every program shows another one.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec
import numpy as np
from PIL import Image

from glocal.data.image import StoredImage, UnreadableImageError, decode_as, formats, orientation_of, read_as
from glocal.data.objects import Objects, Runs, decode_segment, mask_of
from glocal.data.segments import runs_of_mask, text_of_runs
from glocal.errors import InvalidValueError
from glocal.wording import shown

Size = tuple[int, int]  # (height, width)
Frame = Literal["upright", "stored"]
FRAMES = ("upright", "stored")
THREADS = 8  # that read heads: on network drives each waits
METADATA = (b"eXIf", b"zTXt", b"tEXt", b"iTXt")  # chunks of PNG that may hold an orientation
IN_INFO = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow keeps it
# By EXIF's orientation: whether x and y change places, and then whether x and y run backwards.
TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


class Head(NamedTuple):
    """What the head of an image file says. size: as stored. orientation: 1 to 8, as EXIF numbers it."""

    size: Size
    orientation: int

    @property
    def upright(self) -> Size:
        return upright_size(self.size, self.orientation)


class Settled(NamedTuple):
    """What the boxes of an image are of.

    size: of the picture that they are drawn on; None where nothing says it. turn: the orientation that brings them
    upright. fault: why the image cannot be used with its boxes; "" if it can. assumed: whether nothing but other images
    says it.
    """

    size: Size | None
    turn: int = 1
    fault: str = ""
    assumed: bool = False


def upright_size(size: Size, orientation: int) -> Size:
    return size[::-1] if TURNS[orientation][0] else size


def heads_of(images: Sequence[str | StoredImage]) -> list[Head | None]:
    """The head of each image file; None where it cannot be read. No pixels are decoded."""
    # Reading an image changes the filters of warnings, which all threads share.
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(head_of, images))


def head_of(image: str | StoredImage) -> Head | None:
    try:
        if isinstance(image, str):
            return read_as(image, _head)
        if image.content is None:
            return None if image.path is None else read_as(image.path, _head)
        return decode_as(image.content, image.name, _head)
    except UnreadableImageError:
        return None


def head_in(file: BinaryIO) -> Head | None:
    """The head of an image in an open file, of which only the beginning is read; None where that is not enough."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats()) as image:
                return _head(image)
    except Exception:  # of Pillow: nearly anything
        return None


def _head(image: Image.Image) -> Head:
    bare = image.format == "PNG" and image.info.keys().isdisjoint(IN_INFO) and not _has_late_metadata(image)
    orientation = 1 if bare else orientation_of(image)
    orientation = orientation if orientation in TURNS else 1
    size = image.height, image.width
    return Head(
        upright_size(size, orientation) if image.format == "TIFF" else size, orientation
    )  # Pillow turns TIFF itself


def _has_late_metadata(png: Image.Image) -> bool:
    """Whether a PNG has metadata behind its first pixels, which Pillow finds by decoding all of them."""
    file, place, behind = png.fp, png.fp.tell(), False
    try:
        file.seek(8)
        while len(chunk := file.read(8)) == 8 and chunk[4:] != b"IEND":
            behind = behind or chunk[4:] == b"IDAT"
            if behind and chunk[4:] in METADATA:
                return True
            file.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
        return False
    finally:
        file.seek(place)


def settled(said: Sequence[Size | None], heads: Sequence[Head | None], given: Frame | None) -> list[Settled]:
    """Which picture the boxes of each image are of, the stored or the upright one.

    said: the size of each image in the annotations; None where they do not say it. It decides where an orientation
    exchanges width and height. Other images (turned by 180°, mirrored, square, or without a size) are as `given`, or
    else as those whose sizes decide, if they agree; else they have a fault.
    """
    frames = [_frames(*one) for one in zip(said, heads, strict=True)]
    votes = Counter(found[0] for found in frames if len(found) == 1)
    default = given or (next(iter(votes)) if len(votes) == 1 else None)
    return [_settled(*one, default, given is None) for one in zip(said, heads, frames, strict=True)]


def _frames(said: Size | None, head: Head | None) -> tuple[Frame, ...]:
    """The pictures of an image that has an orientation which are of the size that is said."""
    if head is None or head.orientation == 1:
        return ()
    return tuple(name for name, size in zip(FRAMES, (head.upright, head.size), strict=True) if said in (None, size))


def _settled(
    said: Size | None, head: Head | None, frames: tuple[Frame, ...], default: Frame | None, assumed: bool
) -> Settled:
    if head is None:
        return Settled(said)
    if said not in (None, head.size, head.upright):
        return Settled(said, fault="of another size than the annotations say")
    if head.orientation == 1:
        return Settled(head.size)
    frame = frames[0] if len(frames) == 1 else default
    if frame is None:
        return Settled(said, fault="turned by EXIF, and nothing says whether boxes are of the turned picture")
    assumed = assumed and len(frames) > 1
    if frame == "upright":
        return Settled(head.upright, assumed=assumed)
    return Settled(head.size, head.orientation, assumed=assumed)


def checked_frame(given: Any) -> Frame | None:
    """The argument `orientation` of a layout; ValueError for another value."""
    if given not in (None, *FRAMES):
        raise InvalidValueError(f"orientation must be upright or stored, got {shown(given)}")
    return given


def turned(objects: Objects, size: Size, orientation: int) -> Objects:
    """The objects of a stored picture of (height, width) on the upright picture."""
    if orientation == 1:
        return objects
    swap, back_x, back_y = TURNS[orientation]
    height, width = upright = upright_size(size, orientation)
    x1, y1, x2, y2 = objects.boxes.T
    if swap:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if back_x:
        x1, x2 = width - x2, width - x1
    if back_y:
        y1, y2 = height - y2, height - y1
    segments = tuple(_turned_segment(one, size, orientation) for one in objects.segments)
    boxes = np.stack([x1, y1, x2, y2], 1)
    return Objects(boxes, objects.labels, objects.crowd, objects.areas, segments, upright)


def _turned_segment(segment: bytes, size: Size, orientation: int) -> bytes:
    swap, back_x, back_y = TURNS[orientation]
    height, width = upright_size(size, orientation)
    found = decode_segment(segment)
    if isinstance(found, Runs):
        mask = mask_of(found, size)
        mask = mask.T if swap else mask
        mask = mask[:: -1 if back_y else 1, :: -1 if back_x else 1]
        return msgspec.json.encode(Runs((height, width), text_of_runs(runs_of_mask(mask))))
    polygons = []
    for polygon in found:
        x, y = np.array(polygon).reshape(-1, 2).T
        x, y = (y, x) if swap else (x, y)
        x, y = width - x if back_x else x, height - y if back_y else y
        polygons.append(np.stack([x, y], 1).ravel().tolist())
    return msgspec.json.encode(polygons)
