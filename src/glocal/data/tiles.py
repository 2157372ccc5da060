"""Images that are too large to be computed at once, cut into tiles that overlap."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from glocal.data.prepare import Pixels
from glocal.data.raster import Scene
from glocal.errors import InvalidValueError

MOST_PIXELS = 2**31 - 1  # of an image that is read to be cut; as 8-bit RGB it then takes 6 GB


@dataclass(frozen=True)
class Tile:
    """A tile of an image.

    image: the whole, in memory or in an open file. box: (top, left, bottom, right) in the image, in pixels. middle: the
    part of the box that no other tile's middle covers; all middles together are the image.
    """

    image: Image.Image | Scene
    box: tuple[int, int, int, int]
    middle: tuple[int, int, int, int]
    name: str = ""

    def __str__(self) -> str:
        return self.name

    def load(self) -> Pixels:
        """The pixels of the tile: as RGB, or the bands (H, W, C) of a raster."""
        top, left, bottom, right = self.box
        return self.image.crop((left, top, right, bottom))


def is_large(image: Image.Image | Scene, side: int) -> bool:
    """Whether an image is cut: a side is longer than that of a tile."""
    return max(image.size) > side


def tiles_of(image: Image.Image | Scene, side: int, overlap: int, name: str = "") -> Iterator[Tile]:
    """The tiles of an image, row by row.

    side: of a tile, in pixels; at the edges of the image it is shifted back, so that all tiles of a long enough axis
    have it. overlap: pixels that neighbours have in common, at least.
    """
    rows, columns = (_spans(length, side, overlap) for length in (image.height, image.width))
    for top, bottom, first, last in rows:
        for left, right, begin, end in columns:
            yield Tile(image, (top, left, bottom, right), (first, begin, last, end), name)


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Of an axis: (begin, end) of each tile, and (begin, end) of its middle."""
    if not 0 <= overlap < side:
        raise InvalidValueError(f"tiles of {side} pixels cannot overlap by {overlap}")
    if length <= side:
        return [(0, length, 0, length)]
    count = -(-(length - overlap) // (side - overlap))
    begins = [min(i * (side - overlap), length - side) for i in range(count)]
    cuts = [0, *((begin + before + side) // 2 for before, begin in pairwise(begins)), length]
    return [(begin, begin + side, *cuts[place : place + 2]) for place, begin in enumerate(begins)]


@contextmanager
def large_images() -> Iterator[None]:
    """Let Pillow read images beyond its limit against decompression bombs: for files that the user knows are large."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS // 2  # Pillow refuses from twice this number
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
