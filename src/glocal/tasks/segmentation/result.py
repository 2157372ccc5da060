"""The result of segmentation for an image."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from glocal.tasks.task import Line, Result

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass(frozen=True)
class Segmentation(Result):
    """The class of every pixel of an image. The lists hold the classes that occur, the largest first.

    size: (height, width). shares: of the pixels. confidences: mean probability of a class's pixels. rles: their masks,
    in COCO's compressed run-length encoding. labels: the class of each pixel, (H, W), numbered as the model has them.
    colors: red, green and blue of each class of the model. numbers: of the classes that occur, in `labels`.
    """

    size: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    rles: list[str] = field(default_factory=list)
    labels: "np.ndarray | None" = field(default=None, compare=False, repr=False)
    colors: "list[list[int]]" = field(default_factory=list, compare=False, repr=False)
    numbers: list[int] = field(default_factory=list, compare=False, repr=False)

    def lines(self) -> list[Line]:
        return lines_of(self.classes, self.shares, [self.colors[number] for number in self.numbers])

    def draw(self, image: "Image.Image") -> "Image.Image":
        from glocal.tasks.segmentation.overlay import overlay, with_legend

        return with_legend(overlay(image, self.labels, self.colors), self.lines())

    def overlay(self) -> "Image.Image":
        """Each pixel in the colour of its class."""
        from PIL import Image

        return Image.fromarray(self.in_colors()).convert("RGBA")

    def captioned(self, image: "Image.Image") -> "Image.Image":
        from glocal.tasks.drawing import with_caption
        from glocal.tasks.segmentation.overlay import legend, on_grey

        names = [""] * len(self.colors)
        for number, name in zip(self.numbers, self.classes, strict=True):
            names[number] = name
        return with_caption(on_grey(image, self.labels, self.colors), legend(self.labels, self.colors, names))

    def in_colors(self) -> "np.ndarray":
        """Each pixel in the colour of its class, (H, W, 3) uint8."""
        from glocal.tasks.segmentation.overlay import in_colors

        return in_colors(self.labels, self.colors)

    def parts(self) -> "Iterator[tuple[int, str, float, np.ndarray]]":
        """Of each class that occurs: its number, its run lengths, its confidence and its mask (H, W)."""
        for number, rle, score in zip(self.numbers, self.rles, self.confidences, strict=True):
            yield number, rle, score, self.labels == number

    def to_png(self) -> bytes:
        """The label map as a PNG: numbers of classes as a palette's indices, 16 bits for more than 256 classes."""
        from PIL import Image

        if len(self.colors) <= 256:
            image = Image.fromarray(self.labels.astype("uint8", copy=False))
            image.putpalette([level for color in self.colors for level in color])
        else:
            image = Image.fromarray(self.labels.astype("uint16", copy=False))
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()


def lines_of(names: Sequence[str], shares: Sequence[float], colors: Sequence[Sequence[int]]) -> list[Line]:
    """A line for each part of an image. shares: of the pixels. colors: [red, green, blue] of each part."""
    about = zip(names, shares, colors, strict=True)
    return [
        Line(name, f"{100 * share:.1f} %", share, "#{:02x}{:02x}{:02x}".format(*color)) for name, share, color in about
    ]
