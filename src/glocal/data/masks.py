"""Label maps: a class for every pixel of an image."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import numpy as np

from glocal.data.image import UnreadableImageError

IGNORE = -1  # the label of pixels that count nowhere


class LabelMap(Protocol):
    """The annotation of an image for segmentation, read when it is needed."""

    def load(self, size: tuple[int, int]) -> np.ndarray:
        """The class of every pixel, (H, W) int32, with IGNORE where a pixel counts nowhere.

        size: (height, width) of the image. Raises UnreadableImageError, which names the file, if there is no such map.
        """

    def content(self) -> str:
        """A text that tells the map from others, wherever its file lies."""


@dataclass(frozen=True, eq=False)
class ArrayMap:
    """A label map in memory. labels: (H, W), integers with IGNORE."""

    labels: np.ndarray
    name: str = ""

    def load(self, size: tuple[int, int]) -> np.ndarray:
        check_size(self.name, self.labels.shape, size)
        return self.labels.astype(np.int32)

    def content(self) -> str:
        return sha256(np.ascontiguousarray(self.labels, dtype=np.int32).tobytes()).hexdigest()


def check_size(name: str, found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise UnreadableImageError if a mask has another size than its image: (height, width) each."""
    if tuple(found) != tuple(size):
        raise UnreadableImageError(
            name, f"the mask is {found[1]}×{found[0]} pixels, its image {size[1]}×{size[0]} (width × height)"
        )
