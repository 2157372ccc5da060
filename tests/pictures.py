"""Images for tests of detection: rectangles of one colour, so that a box can be seen in the pixels."""

import numpy as np
from PIL import Image

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
STORE = {  # what turns the upright picture into the one that a file with this EXIF orientation stores
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(size, boxes):
    """An upright image of (height, width), black around rectangles: of the i-th box in the i-th colour."""
    pixels = np.zeros((*size, 3), np.uint8)
    for color, (x1, y1, x2, y2) in zip(COLORS, boxes, strict=False):
        pixels[y1:y2, x1:x2] = color
    return Image.fromarray(pixels)


def save(path, image, orientation=1, **options):
    """Save an upright image as a file with an EXIF orientation; returns the picture as it is stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    turn = STORE[orientation]
    stored = image if turn is None else image.transpose(turn)
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    stored.save(path, **options)
    return stored


def box_seen(image, color):
    """x1, y1, x2, y2 of the pixels of a colour, by looking at each of them."""
    width, height = image.size
    found = [(x, y) for y in range(height) for x in range(width) if image.getpixel((x, y)) == color]
    xs, ys = zip(*found, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
