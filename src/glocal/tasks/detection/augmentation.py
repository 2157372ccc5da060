"""Random changes of training images and their objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from glocal.data.preprocessing import Whole
from glocal.data.preprocessing import resized as size_with_aspect
from glocal.data.samples import Samples
from glocal.tasks.detection.picture import Picture, cropped, joined, mirrored, pasted, resized

# DETR's crop (arXiv 2005.12872, section 4), in pixels of images whose shorter side is 800 in measuring: the sides to
# which an image is resized before it is cropped, the longest of them, and the range of the crop's sides.
REFERENCE = 800
DETR_SIDES, DETR_LONGEST, DETR_CROP = (400, 500, 600), 4200, (384, 600)
MIDDLE = (0.25, 0.75)  # where the four images of a mosaic meet, in parts of its sides
MOSAIC_FACTORS = (0.5, 1.0)  # of their size


@dataclass(frozen=True)
class DetectionAugmentation:
    """Random changes, in this order.

    whole: the size of measuring. scales: factors of its shorter side, of which one is drawn. mosaic, copy_paste:
    probabilities of other images in an image. detr_crop: whether half of the images are cropped before they are
    resized. scale_jitter: smallest and largest factor of an image's size, which is then cropped to its size without it.
    hflip: probability of a mirror image. photometric: change brightness, contrast, saturation and hue.
    label_interpolation: how masks are resized; see `glocal.tasks.segmentation.transform`. others: the images of the
    training, for mosaic and copy_paste. All random numbers are torch's.
    """

    whole: Whole
    scales: tuple[float, ...] = ()
    detr_crop: bool = False
    scale_jitter: tuple[float, float] | None = None
    hflip: float = 0.5
    photometric: bool = True
    copy_paste: float = 0.0
    mosaic: float = 0.0
    label_interpolation: Literal["nearest-exact", "nearest"] = "nearest-exact"
    others: Samples | None = None

    def __call__(self, picture: Picture, draw: Callable[[], Picture]) -> Picture:
        """The changed picture. draw: gives another picture of the training, as it is."""
        if self.mosaic and chance(self.mosaic):
            changed = self._mosaic([picture, draw(), draw(), draw()])
        else:
            changed = self._placed(picture)
        if self.copy_paste and chance(self.copy_paste):
            other = self._placed(draw())
            changed = pasted(changed, other.of(torch.rand(len(other.labels)) < 0.5))
        return changed

    def _placed(self, picture: Picture) -> Picture:
        """The picture cropped, resized and mirrored."""
        if self.detr_crop and chance(0.5):
            picture = self._detr_cropped(picture)
        size = self._size(picture.size)
        if self.scale_jitter is None:
            picture = resized(picture, size, self.label_interpolation).visible()
        else:
            factor = uniform(*self.scale_jitter)
            larger = [max(1, int(side * factor + 0.5)) for side in size]
            picture = random_crop(resized(picture, larger, self.label_interpolation), size)
        return mirrored(picture) if chance(self.hflip) else picture

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        shorter = max(1, round(self.whole.shorter * drawn(self.scales or (1,))))
        return replace(self.whole, shorter=shorter).sizes(size)[0]

    def _detr_cropped(self, picture: Picture) -> Picture:
        scale = self.whole.shorter / REFERENCE
        sides = [max(1, round(side * scale)) for side in (drawn(DETR_SIDES), DETR_LONGEST, *DETR_CROP)]
        shorter, longer, least, most = sides
        picture = resized(picture, size_with_aspect(picture.size, (longer, shorter)), self.label_interpolation)
        size = [whole_number(min(side, least), min(side, most)) for side in picture.size]
        return random_crop(picture, size)

    def _mosaic(self, pictures: list[Picture]) -> Picture:
        """Four images that meet in a point, each cropped to its quarter (arXiv 2004.10934); the size is the first's."""
        height, width = size = self._size(pictures[0].size)
        y, x = (round(side * uniform(*MIDDLE)) for side in size)
        places = [(0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width)]
        parts = []
        for picture, (top, left, bottom, right) in zip(pictures, places, strict=True):
            factor = uniform(*MOSAIC_FACTORS)
            smaller = [max(1, int(side * factor + 0.5)) for side in self._size(picture.size)]
            part = random_crop(resized(picture, smaller, self.label_interpolation), (bottom - top, right - left))
            parts.append((mirrored(part) if chance(self.hflip) else part, (top, left)))
        return joined(parts, size)


def random_crop(picture: Picture, size: tuple[int, int]) -> Picture:
    """A part of (height, width) at a random place; smaller where the picture is."""
    starts = [whole_number(0, max(have - want, 0)) for have, want in zip(picture.size, size, strict=True)]
    rows, columns = (
        slice(start, start + min(have, want)) for start, have, want in zip(starts, picture.size, size, strict=True)
    )
    return cropped(picture, (rows, columns))


def drawn(values: Sequence[float]) -> float:
    return values[whole_number(0, len(values) - 1)]


def whole_number(least: int, most: int) -> int:
    """A random whole number, both ends included."""
    return int(torch.randint(least, most + 1, ()))


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def chance(probability: float) -> bool:
    return torch.rand(()).item() < probability
