"""The result of panoptic segmentation for an image."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from glocal.tasks.segmentation.result import lines_of
from glocal.tasks.task import Line, Result

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass(frozen=True)
class Panoptic(Result):
    """The segments of an image. The lists have an entry for each segment, the largest first.

    size: (height, width). classes: names. scores: probabilities of the classes. shares: of the pixels. rles: the masks,
    in COCO's compressed run-length encoding. ids: the place of each pixel's segment in the lists, (H, W) int32, or -1.
    colors: red, green and blue of each segment. numbers: of the segments' classes, as the model has them.
    """

    size: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    rles: list[str] = field(default_factory=list)
    ids: "np.ndarray | None" = field(default=None, compare=False, repr=False)
    colors: list[list[int]] = field(default_factory=list, compare=False, repr=False)
    numbers: list[int] = field(default_factory=list, compare=False, repr=False)

    def lines(self) -> list[Line]:
        return lines_of(self.classes, self.shares, self.colors) or [Line("no segment", "–")]

    def draw(self, image: "Image.Image") -> "Image.Image":
        from glocal.tasks.panoptic.drawing import outlined
        from glocal.tasks.segmentation.overlay import overlay, with_legend

        return with_legend(outlined(overlay(image, self.ids, self.colors), self.ids), self.lines())

    def overlay(self) -> "Image.Image":
        """Each pixel in the colour of its segment; pixels of no segment are transparent."""
        import numpy as np
        from PIL import Image

        from glocal.tasks.segmentation.overlay import in_colors

        alpha = np.where(self.ids < 0, 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([in_colors(self.ids, self.colors), alpha]))

    def parts(self) -> "Iterator[tuple[int, str, float, np.ndarray]]":
        """Of each segment: the number of its class, its run lengths, its score and its mask (H, W)."""
        for place, (number, rle, score) in enumerate(zip(self.numbers, self.rles, self.scores, strict=True)):
            yield number, rle, score, self.ids == place

    def captioned(self, image: "Image.Image") -> "Image.Image":
        from glocal.tasks.drawing import with_caption
        from glocal.tasks.segmentation.overlay import legend, on_grey

        entries = legend(self.ids, self.colors, self.classes, "segments", "no segment")
        return with_caption(on_grey(image, self.ids, self.colors), entries)
