"""Label maps over images: the only place that draws them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from glocal.data.masks import IGNORE, distinct_colors
from glocal.tasks.drawing import HATCHED, Entry, text_size
from glocal.tasks.task import Line

OPACITY = 0.55  # of the classes' colours over the image
NAMED = 12  # classes in the legend of a picture
HATCH = 8  # pixels from one line over ignored pixels to the next


def colors_of(args: dict, count: int) -> list[list[int]]:
    """[red, green, blue] of each of `count` classes: the data's, or else distinct ones. args: of `SegmentationArgs`."""
    colors = args.get("colors", [])
    return colors if len(colors) == count else distinct_colors(count)


def overlay(image: Image.Image, labels: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """The RGB image with each pixel tinted in the colour of its class; ignored pixels are dark and hatched.

    labels: (H, W), integers with IGNORE; where the image has another size, it takes the label at each pixel's centre.
    """
    labels = at_size(labels, (image.height, image.width))
    tinted = Image.blend(image, Image.fromarray(in_colors(labels, colors)), OPACITY)
    ignored = labels == IGNORE
    if not ignored.any():
        return tinted
    pixels = np.array(tinted)
    pixels[ignored] = np.asarray(image)[ignored] // 3
    lines = np.add.outer(np.arange(image.height), np.arange(image.width)) % HATCH < 2
    pixels[ignored & lines] = 200
    return Image.fromarray(pixels)


def at_size(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The labels at (height, width), of the nearest pixels."""
    if labels.shape == size:
        return labels
    places = [(2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(labels.shape, size, strict=True)]
    return labels[np.ix_(*places)]


def in_colors(labels: np.ndarray, colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Each pixel in the colour of its class, (H, W, 3) uint8; ignored pixels black."""
    return np.array([*colors, (0, 0, 0)], np.uint8)[labels]  # IGNORE, -1, takes the last


def on_grey(image: Image.Image, labels: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """The overlay on the image in grey: over a red photograph, blue would look violet."""
    return overlay(image.convert("L").convert("RGB"), labels, colors)


def legend(
    labels: np.ndarray,
    colors: Sequence[Sequence[int]],
    names: Sequence[str],
    kind: str = "classes",
    rest: str = "ignored",
) -> list[Entry]:
    """The labels that occur, with their colours and shares of the pixels, the largest first.

    kind: what labels are, for people. rest: what pixels with IGNORE are.
    """
    counts = np.bincount(labels[labels != IGNORE], minlength=len(names))
    present = [int(number) for number in np.argsort(-counts, kind="stable") if counts[number]]
    entries = [
        Entry(f"{names[number]}  {_share(counts[number] / labels.size)}", tuple(colors[number]))
        for number in present[:NAMED]
    ]
    ignored = 1 - counts.sum() / labels.size
    if len(present) > NAMED:
        entries.append(Entry(f"and {len(present) - NAMED} more {kind}"))
    if ignored:
        entries.append(Entry(f"{rest}  {_share(ignored)}", HATCHED))
    return entries


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def with_legend(image: Image.Image, lines: Sequence[Line]) -> Image.Image:
    """The image with a box of colour and a line for each of the first parts in the top left corner."""
    lines = lines[:NAMED]
    font, size = text_size(image)
    draw = ImageDraw.Draw(image, "RGBA")
    pad = size // 3
    widths = [draw.textlength(f"{line.text}  {line.value}", font) for line in lines]
    draw.rectangle(
        (0, 0, max(widths, default=0) + size + 3 * pad, len(lines) * (size + pad) + pad), fill=(0, 0, 0, 160)
    )
    for place, line in enumerate(lines):
        top = pad + place * (size + pad)
        draw.rectangle((pad, top, pad + size, top + size), fill=line.color, outline="white")
        draw.text((size + 2 * pad, top - size // 8), f"{line.text}  {line.value}", fill="white", font=font)
    return image
