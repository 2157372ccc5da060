"""What pictures show of segments."""

import numpy as np
from PIL import Image

from glocal.data.masks import distinct_colors
from glocal.tasks.segmentation.overlay import at_size


def colors_of_segments(count: int) -> list[list[int]]:
    """[red, green, blue] of each of `count` segments, none like another, and none black."""
    return distinct_colors(count + 1)[1:]


def outlined(image: Image.Image, ids: np.ndarray) -> Image.Image:
    """The RGB image with white lines between segments. ids: (H, W), the segment of each pixel."""
    ids, pixels = at_size(ids, (image.height, image.width)), np.array(image)
    last = np.zeros(ids.shape, bool)  # pixels whose right or lower neighbour belongs to another segment
    last[:, :-1] = ids[:, 1:] != ids[:, :-1]
    last[:-1] |= ids[1:] != ids[:-1]
    pixels[last] = 255
    return Image.fromarray(pixels)
