"""Drawing results and targets on images."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from glocal.figures import font_file
from glocal.wording import printable

SHARE = 24  # lines of text for which a picture's shorter side has room
LEAST, MOST = 200, 640  # pixels of a side of an image in a picture for people
GAP = 8  # pixels between images
FEW = 12  # numbers that are written
HATCHED = "hatched"
BLACK, GREY = (0, 0, 0), (110, 110, 110)


class Entry(NamedTuple):
    """An entry below an image. fill: (red, green, blue) of a box before the text, or HATCHED; None: no box."""

    text: str
    fill: tuple[int, int, int] | str | None = None
    color: tuple[int, int, int] = BLACK


def text_size(image: Image.Image) -> tuple[ImageFont.FreeTypeFont, int]:
    """The font for an image, and its size in pixels."""
    size = max(10, min(image.size) // SHARE)
    return ImageFont.load_default(size), size


def write_lines(image: Image.Image, lines: Sequence[tuple]) -> Image.Image:
    """A copy of an RGB image with lines of (text, value, …) in the top left corner, white on dark."""
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn, "RGBA")
    font, size = text_size(image)
    text = "\n".join(f"{line[0]}  {line[1]}" for line in lines)
    pad = size // 3
    left, top, right, bottom = draw.multiline_textbbox((pad, pad), text, font=font)
    draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=(0, 0, 0, 160))
    draw.multiline_text((pad, pad), text, fill="white", font=font)
    return drawn


def readable(image: Image.Image, least: int = LEAST, most: int = MOST) -> Image.Image:
    """The image at a size for people: pixels enlarged by a whole factor if it is small, reduced if it is large.

    least: pixels of the shorter side, at least. most: pixels of the longer side, at most, which goes before.
    """
    factor = min(-(-least // min(image.size)), most // max(image.size))
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most))
    return image


def with_caption(
    image: Image.Image, entries: Iterable[Entry], above: bool = False, size: int | None = None
) -> Image.Image:
    """The RGB image with entries on white below it, or above, so that no text covers it.

    Entries follow each other in as many rows as they need; a text that is too long for a row loses its beginning. The
    picture is as wide as the image, or LEAST pixels. size: of the text in pixels (default: one that suits the width).
    """
    width = max(image.width, LEAST)
    caption = _caption(list(entries), width, size or max(16, min(20, width // SHARE)))
    return stacked([caption, image] if above else [image, caption])


def stacked(images: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Images below each other on white."""
    width = max(image.width for image in images)
    picture = Image.new("RGB", (width, sum(image.height for image in images) + gap * (len(images) - 1)), "white")
    top = 0
    for image in images:
        picture.paste(image, (0, top))
        top += image.height + gap
    return picture


def beside(images: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Images beside each other on white."""
    height = max(image.height for image in images)
    picture = Image.new("RGB", (sum(image.width for image in images) + gap * (len(images) - 1), height), "white")
    left = 0
    for image in images:
        picture.paste(image, (left, 0))
        left += image.width + gap
    return picture


def grid(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one width in rows, with white between and around them, about as wide as high."""
    shape = max(image.height for image in images) / images[0].width
    columns = max(1, round(math.sqrt(len(images) * shape)))
    rows = [beside(images[first : first + columns]) for first in range(0, len(images), columns)]
    return framed(stacked(rows, GAP))


def framed(image: Image.Image) -> Image.Image:
    """The image with a white border."""
    picture = Image.new("RGB", (image.width + 2 * GAP, image.height + 2 * GAP), "white")
    picture.paste(image, (GAP, GAP))
    return picture


def text_of(target: Any) -> str:
    """A target of numbers, tensors, and lists and dicts of them, in a line; of many numbers, only their shape."""
    if isinstance(target, dict):
        return ", ".join(f"{name}: {text_of(one)}" for name, one in target.items())
    if hasattr(target, "tolist"):
        target = target.tolist() if target.numel() <= FEW else f"{'×'.join(map(str, target.shape))} numbers"
    if isinstance(target, list | tuple):
        return ", ".join(map(text_of, target[:FEW])) + (", …" if len(target) > FEW else "")
    return f"{target:.4g}" if isinstance(target, float) else str(target)


def _caption(entries: list[Entry], width: int, size: int) -> Image.Image:
    entries = [entry._replace(text=printable(entry.text)) for entry in entries]
    font = font_for("".join(entry.text for entry in entries), size)
    space, line = size // 2, size + size // 2
    places, x, y = [], 0, 0
    for entry in entries:
        box = size + size // 3 if entry.fill is not None else 0
        text = _shortened(entry.text, font, width - box)
        length = box + font.getlength(text)
        if x and x + length > width:
            x, y = 0, y + line
        places.append((entry, text, x, y, box))
        x += length + 2 * space
    picture = Image.new("RGB", (width, y + line if entries else 0), "white")
    draw = ImageDraw.Draw(picture)
    for entry, text, x, y, box in places:
        middle = y + line // 2
        if entry.fill is not None:
            square = (x, middle - size // 2, x + size, middle + size // 2)
            draw.rectangle(square, fill=GREY if entry.fill == HATCHED else entry.fill, outline="black")
            if entry.fill == HATCHED:
                for step in range(0, size, 5):
                    draw.line((x + step, square[1], x, square[1] + step), fill="white")
                    draw.line((x + size, square[1] + step, x + step, square[3]), fill="white")
        draw.text((x + box, middle), text, fill=entry.color, font=font, anchor="lm")
    return picture


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has the letters of a text, as far as one is installed; Pillow's own has hardly more than ASCII."""
    file = font_file(text)
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of its end as fits: names of files differ at their ends."""
    text = text[-1000:]
    if font.getlength(text) <= width:
        return text
    first, last = 0, len(text)  # the fewest letters to leave out, by halves
    while first < last:
        middle = (first + last) // 2
        if font.getlength("…" + text[middle:]) <= width:
            last = middle
        else:
            first = middle + 1
    return "…" + text[first:]
