"""Boxes and masks of objects over images: the only place that draws them."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from glocal.tasks.drawing import Entry, font_for, text_size
from glocal.tasks.segmentation.overlay import at_size
from glocal.wording import printable

OPACITY = 0.45  # of masks over the image
GOLDEN = 0.618034  # of a turn from one class's hue to the next: no later one comes near
NAMED = 12  # entries below a picture
Color = Sequence[int]
Box = Sequence[float]


def colors_of_classes(count: int) -> list[list[int]]:
    """[red, green, blue] of each of `count` classes: bright, as lines are thin, and neighbours far apart."""
    turns = [(place * GOLDEN) % 1 for place in range(count)]
    shades = [(0.9, 1.0), (0.55, 1.0), (0.9, 0.7)]  # saturation and value, in turn
    found = [colorsys.hsv_to_rgb(turn, *shades[place // 8 % 3]) for place, turn in enumerate(turns)]
    return [[round(255 * level) for level in color] for color in found]


def scaled(boxes: Sequence[Box], size: Sequence[int], image: Image.Image) -> list[list[float]]:
    """Boxes in pixels of an image of (height, width), in pixels of the same image at another size."""
    across, down = image.width / size[1], image.height / size[0]
    return [[left * across, top * down, right * across, bottom * down] for left, top, right, bottom in boxes]


def with_boxes(
    image: Image.Image, boxes: Sequence[Box], colors: Sequence[Color], texts: Sequence[str] = ()
) -> Image.Image:
    """A copy of an RGB or RGBA image with boxes on it, the first on top, and a text at each.

    boxes: x1, y1, x2, y2 in pixels of the image. texts: of each box; none for boxes alone.
    """
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    width = max(2, min(image.size) // 200)
    font, size = text_size(image)
    if texts:
        font = font_for("".join(texts), size)
    for place in reversed(range(len(boxes))):
        left, top, right, bottom = boxes[place]
        color = tuple(colors[place])
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=width)
        if texts:
            _write(draw, (left, top), printable(texts[place]), font, color, image.size)
    return drawn


def _write(draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, font, color: tuple, size) -> None:
    """A text on its colour, above a box if there is room, and inside the image."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = max(0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else min(corner[1], size[1] - height)
    bright = sum(part * level for part, level in zip((0.299, 0.587, 0.114), color, strict=True)) > 140
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 3 - left, y + 3 - top), text, font=font, fill="black" if bright else "white")


def with_masks(image: Image.Image, masks: Sequence[np.ndarray], colors: Sequence[Color]) -> Image.Image:
    """A copy of an image, tinted where masks (H, W) bool are; at another size, by the pixels' centres.

    An RGBA image gets the colours themselves, half transparent.
    """
    pixels = np.array(image, np.float32)
    for mask, color in zip(masks, colors, strict=True):
        place = at_size(mask, (image.height, image.width))
        if image.mode == "RGBA":
            pixels[place] = [*color, 255 * OPACITY]
        else:
            pixels[place] += OPACITY * (np.array(color, np.float32) - pixels[place])
    return Image.fromarray(pixels.round().astype(np.uint8))


def entries(names: Sequence[str], colors: Sequence[Color], nothing: str = "no object") -> list[Entry]:
    """The classes of objects with their numbers, the most frequent first. names, colors: of each object."""
    counts: dict[str, int] = {}
    fills: dict[str, tuple] = {}
    for name, color in zip(names, colors, strict=True):
        counts[name] = counts.get(name, 0) + 1
        fills[name] = tuple(color)
    order = sorted(counts, key=lambda name: -counts[name])
    found = [Entry(f"{counts[name]} × {name}", fills[name]) for name in order[:NAMED]]
    if len(order) > NAMED:
        found.append(Entry(f"and {len(order) - NAMED} more classes"))
    return found or [Entry(nothing)]
