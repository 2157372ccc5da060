"""The embedded set `shapes`: objects drawn on photographs, with the exact class of every pixel and every object's mask.

The grounds are photographs of scikit-image, the surfaces of the objects its textures; training and validation share
them. All is drawn with whole numbers from a fixed seed, so that the set is the same on every machine.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from glocal.data.image import read_image
from glocal.data.masks import ArrayMap, check_size, distinct_colors
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.segment_maps import SegmentIds
from glocal.data.splits import refuse_to_draw
from glocal.errors import InvalidValueError, MissingExtraError
from glocal.wording import shown

NAME = "shapes"
ARGS = ("size", "count")
SIZE, SIZES = 128, range(32, 257)  # pixels of a side
COUNT, COUNTS = 400, range(4, 10_001)  # images to train on; a quarter as many to validate on
SEED = 2026
CLASSES = ("background", "circle", "square", "triangle", "star", "ring")
# What colours an object of each class has: (red, green, blue), and how far it may differ in each. Shape alone would
# take small models more than the minutes of a demonstration.
COLORS = ((0, 0, 0), (215, 65, 55), (70, 165, 75), (65, 95, 215), (225, 195, 60), (165, 75, 190))
RANGE = 45
# Files in scikit-image, all PNG: JPEG's decoders differ by a grey level.
GROUNDS = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left")
SURFACES = ("brick", "grass", "gravel")
UNIT = 16  # coordinates are in 16ths of a pixel
TURN = 4096  # sines and cosines are in 4096ths
MOST_OBJECTS = 4
VISIBLE = 0.4  # of an object's area in the image, at least
SMALLEST = 20  # pixels that are seen of an object, at least
CONTRAST = 110  # between the colours of an object and of its ground, summed over the channels, at least


@dataclass(frozen=True)
class DrawnObject:
    """An object in an image.

    label: of its class in CLASSES. mask: (H, W) bool, what is seen of it. box: (x1, y1, x2, y2) around that, in pixels
    from the left and the top; the last column and row are x2 - 1 and y2 - 1.
    """

    label: int
    mask: np.ndarray
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class ShapesMap(ArrayMap):
    """A segment map: the background, and each object.

    numbers: (H, W) uint8, the number of the object that is seen, from 1 on, and 0 for the background. classes: the
    label of each object.
    """

    numbers: np.ndarray
    classes: tuple[int, ...]

    def load_segments(self, size: tuple[int, int]) -> SegmentIds:
        check_size(self.name, self.numbers.shape, size)
        classes = np.array([0, *self.classes], np.int32)
        return SegmentIds(self.numbers.astype(np.int32), classes, np.zeros(len(classes), bool))

    @property
    def objects(self) -> list[DrawnObject]:
        """The objects, from the back to the front."""
        found = []
        for number, label in enumerate(self.classes, 1):
            mask = self.numbers == number
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
            found.append(DrawnObject(label, mask, box))
        return found


def matches(data: str) -> bool:
    """Whether it is the name of this set, and none of a file or folder."""
    return data == NAME and not Path(data).exists()


def open_training(data: str, how: Opening) -> DataSource:
    refuse_to_draw(data, how, "its split is fixed")
    return _open(how.args)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    return _open(how.args)


def _open(args: Mapping[str, Any]) -> DataSource:
    """The images of `size` pixels, `count` to train on and a quarter as many to validate on."""
    size, count = (
        _whole(args, name, default, allowed)
        for name, default, allowed in (("size", SIZE, SIZES), ("count", COUNT, COUNTS))
    )
    splits = {split: _samples(range(number), size, split) for split, number in (("train", count), ("val", count // 4))}
    numbers = list(range(len(CLASSES)))
    about = {"colors": distinct_colors(len(CLASSES)), "ids": numbers, "things": [number > 0 for number in numbers]}
    return DataSource(NAME, list(CLASSES), splits, img_size=size, task="segmentation", about=about)


def _whole(args: Mapping[str, Any], name: str, default: int, allowed: range) -> int:
    value = args.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        raise InvalidValueError(
            f"{NAME}: {name} must be a whole number from {allowed[0]} to {allowed[-1]:,}, got {shown(value)}"
        )
    return value


def _samples(indices: range, size: int, split: str) -> Samples:
    drawn = [draw(split, index, size) for index in indices]
    return Samples([pixels for pixels, _ in drawn], [label_map for _, label_map in drawn])


def draw(split: str, index: int, size: int = SIZE) -> tuple[np.ndarray, ShapesMap]:
    """The image at `index` of "train" or "val", (size, size, 3) uint8, and its objects."""
    random = np.random.RandomState([SEED, ("train", "val").index(split), index])
    pixels = _ground(random, size)
    numbers, classes, areas = np.zeros((size, size), np.uint8), [], []
    for _ in range(1 + random.randint(MOST_OBJECTS)):
        label = 1 + random.randint(len(CLASSES) - 1)
        window, mask = _outline(random, CLASSES[label], size)
        surface = _surface(random, np.array(COLORS[label]), pixels[window], mask)
        changed = numbers.copy()
        changed[window][mask] = len(classes) + 1
        seen = np.bincount(changed.ravel(), minlength=len(classes) + 2)[1:].tolist()
        whole = [*areas, int(mask.sum())]
        if all(part >= max(SMALLEST, VISIBLE * area) for part, area in zip(seen, whole, strict=True)):
            pixels[window][mask] = surface[mask]
            numbers, areas = changed, whole
            classes.append(label)
    labels = np.array([0, *classes], np.uint8)[numbers]
    return pixels, ShapesMap(labels, f"{NAME}/{split}/{index}", numbers=numbers, classes=tuple(classes))


def _ground(random: np.random.RandomState, size: int) -> np.ndarray:
    """A part of a photograph, (size, size, 3) uint8, at its own scale or at half of it, mirrored or not."""
    photo = _photo(GROUNDS[random.randint(len(GROUNDS))])
    factor = 1 + random.randint(2) if min(photo.shape[:2]) >= 2 * size else 1
    part = _part(random, photo, factor * size, factor * size)
    if factor == 2:
        corners = [part[row::2, column::2].astype(np.uint16) for row in (0, 1) for column in (0, 1)]
        part = sum(corners) // 4
    return part[:, :: 1 - 2 * random.randint(2)].astype(np.uint8)


def _surface(random: np.random.RandomState, color: np.ndarray, ground: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A texture like `ground`, in about a colour, and in one that differs from the ground's where the mask is."""
    texture = _part(random, _photo(SURFACES[random.randint(len(SURFACES))]), *mask.shape)[..., :1].astype(np.int16)
    mean = ground[mask].sum(0, dtype=np.int64) // max(1, mask.sum())
    for _ in range(20):
        varied = color + random.randint(-RANGE, RANGE + 1, 3)
        if abs(varied - mean).sum() >= CONTRAST:
            break
    return np.clip(varied.astype(np.int16) + (texture - 128) // 2, 0, 255).astype(np.uint8)


def _outline(random: np.random.RandomState, name: str, size: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """The pixels of an object whose middle is in the image: the rows and columns around it, and those inside (bool)."""
    radius = random.randint(UNIT * size * 13 // 100, UNIT * size * 27 // 100)
    x, y = (random.randint(UNIT * size // 10, UNIT * size * 9 // 10) for _ in range(2))
    start = random.randint(360)
    rows, columns = (slice(max(0, (z - radius) // UNIT), min(size, (z + radius) // UNIT + 1)) for z in (y, x))
    of_x, of_y = (np.arange(one.start, one.stop) * UNIT + UNIT // 2 for one in (columns, rows))
    of_x, of_y = of_x[None, :], of_y[:, None]
    if name in ("circle", "ring"):
        squares = (of_x - x) ** 2 + (of_y - y) ** 2
        inner = radius * 11 // 20 if name == "ring" else 0
        return (rows, columns), (squares < radius**2) & (squares >= inner**2)
    count = {"square": 4, "triangle": 3, "star": 10}[name]
    corners = []
    for corner in range(count):
        reach = radius * 9 // 20 if name == "star" and corner % 2 else radius
        angle = math.radians(start + 360 * corner // count)
        turn = round(TURN * math.cos(angle)), round(TURN * math.sin(angle))
        corners.append((x + reach * turn[0] // TURN, y + reach * turn[1] // TURN))
    return (rows, columns), _inside(corners, of_x, of_y)


def _inside(corners: list[tuple[int, int]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The places inside a polygon: the edges to the right of them are odd in number. x: (1, W). y: (H, 1)."""
    inside = np.zeros((len(y), x.shape[1]), bool)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y1 > y2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        inside ^= (y1 <= y) & (y < y2) & ((x - x1) * (y2 - y1) < (x2 - x1) * (y - y1))
    return inside


def _part(random: np.random.RandomState, photo: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = random.randint(photo.shape[0] - height + 1), random.randint(photo.shape[1] - width + 1)
    return photo[top : top + height, left : left + width]


@cache
def _photo(name: str) -> np.ndarray:
    """A photograph of scikit-image, (H, W, 3) uint8. It is read without the library, which would download others."""
    package = find_spec("skimage")
    if package is None:
        raise MissingExtraError(f"the embedded set {NAME} needs scikit-image: pip install 'glocal[train]'")
    return np.asarray(read_image(Path(package.origin).parent / "data" / f"{name}.png"))
