"""Where the input of a model lies in the image that it was made from."""

import math
from dataclasses import dataclass

from glocal.data.preprocessing import MAX_ASPECT, Preprocessing


@dataclass(frozen=True)
class Geometry:
    """The map between a model's input and its image, in pixels; both begin at the top left corner of their first pixel.

    size: (height, width) of the image. input_size: (height, width) of the part of the input that shows the image, from
    its top left corner. box: (top, left, bottom, right) of what this part shows, in the image; it reaches beyond the
    image where the input has borders. tensor_size: (height, width) of the input with its padding at the right and
    bottom; None: it has none.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    box: tuple[float, float, float, float]
    tensor_size: tuple[int, int] | None = None

    def to_image(self, y: float, x: float) -> tuple[float, float]:
        """A point of the input, in the image."""
        top, left, bottom, right = self.box
        height, width = self.input_size
        return top + y * (bottom - top) / height, left + x * (right - left) / width

    def to_input(self, y: float, x: float) -> tuple[float, float]:
        """A point of the image, in the input."""
        top, left, bottom, right = self.box
        height, width = self.input_size
        return (y - top) * height / (bottom - top), (x - left) * width / (right - left)


def geometry_of(preprocessing: Preprocessing, size: tuple[int, int]) -> Geometry:
    """The geometry of `glocal.data.prepare.Prepare` for an image of (height, width)."""
    if preprocessing.whole is not None:
        shown = preprocessing.whole.sizes(size)[-1]
        padded = preprocessing.whole.padded(shown)
        return Geometry(tuple(size), shown, (0, 0, *size), None if padded == shown else padded)
    target = preprocessing.input_size[1:]
    kept, cut = list(size), [0, 0]  # the part that is resized, and where it begins
    if preprocessing.crop_mode != "squash":
        limit = MAX_ASPECT * min(size)
        kept = [min(side, limit) for side in size]
        cut = [(side - of_side) // 2 for side, of_side in zip(size, kept, strict=True)]
    begin, end = [], []
    for side, first, resized, new in zip(kept, cut, _resized(preprocessing, kept), target, strict=True):
        # Cropped around the centre; where the image is smaller, borders are put around it.
        offset = round((resized - new) / 2) if resized >= new else -((new - resized) // 2)
        scale = side / resized
        begin.append(first + offset * scale)
        end.append(first + (offset + new) * scale)
    return Geometry(tuple(size), target, (*begin, *end))


def _resized(preprocessing: Preprocessing, size: list[int]) -> list[int]:
    """The (height, width) that timm's and torchvision's transforms resize an image to before they crop it."""
    scaled = [math.floor(side / preprocessing.crop_pct) for side in preprocessing.input_size[1:]]
    if preprocessing.crop_mode == "squash":
        return scaled
    if preprocessing.crop_mode == "center" and scaled[0] == scaled[1]:  # torchvision's: the longer side is cut down
        return [scaled[0] if side == min(size) else int(scaled[0] * side / min(size)) for side in size]
    choose = max if preprocessing.crop_mode == "border" else min
    ratio = choose(side / new for side, new in zip(size, scaled, strict=True))
    return [round(side / ratio) for side in size]
