"""The result of detection for an image."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glocal.tasks.task import Line, Result

if TYPE_CHECKING:
    import numpy as np
    import supervision
    from PIL import Image


@dataclass(frozen=True)
class Detection(Result):
    """The objects in an image, the surest first. The lists have an entry for each.

    size: (height, width). classes: names. scores: from 0 to 1. boxes: x1, y1, x2, y2 in pixels, from the left and the
    top. numbers: of the classes, as the model has them. colors: red, green and blue of each object's class. shown: how
    many of the objects pictures show; the others have lower scores.
    """

    size: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list, compare=False, repr=False)
    colors: list[list[int]] = field(default_factory=list, compare=False, repr=False)
    shown: int = field(default=0, compare=False, repr=False)

    def lines(self) -> list[Line]:
        shown = (column[: self.shown] for column in (self.classes, self.scores, self.colors))
        lines = [
            Line(name, f"{100 * score:.1f} %", score, "#{:02x}{:02x}{:02x}".format(*color))
            for name, score, color in zip(*shown, strict=True)
        ]
        return lines or [Line("no object", "–")]

    def draw(self, image: "Image.Image") -> "Image.Image":
        """The boxes, each with its class and score."""
        return self.on(image, named=True)

    def captioned(self, image: "Image.Image") -> "Image.Image":
        from glocal.tasks.detection.drawing import entries
        from glocal.tasks.drawing import with_caption

        return with_caption(self.on(image), entries(self.classes[: self.shown], self.colors[: self.shown]))

    def overlay(self) -> "Image.Image":
        """The boxes with their classes on nothing."""
        from PIL import Image

        return self.on(Image.new("RGBA", (self.size[1], self.size[0]), (0, 0, 0, 0)), named=True)

    def annotations(self) -> Iterator[dict[str, Any]]:
        """What COCO's JSON says of each object, beside the ids."""
        for (left, top, right, bottom), score in zip(self.boxes, self.scores, strict=True):
            box = [left, top, right - left, bottom - top]
            yield {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": score}

    def to_supervision(self, least: float = 0.0) -> "supervision.Detections":
        """The objects with at least the score `least`, for the annotators, trackers and zones of supervision.

        xyxy (N, 4), confidence (N,), class_id (N,), the class names in data["class_name"], and of instances mask
        (N, H, W) bool, a byte for each pixel of the image and object. Raises ImportError without the extra supervision.
        """
        from glocal.tasks.detection.exchange import as_supervision

        places = [place for place, score in enumerate(self.scores) if score >= least]
        columns = (self.boxes, self.scores, self.numbers, self.classes)
        return as_supervision(*([column[place] for place in places] for column in columns), self._masks_of(places))

    def _masks_of(self, places: list[int]) -> "np.ndarray | None":
        """The masks (N, H, W) bool of some objects; None where there are boxes alone."""
        return None

    def on(self, image: "Image.Image", named: bool = False) -> "Image.Image":
        """The image, at any size, with the shown objects drawn on it. named: with their classes and scores."""
        from glocal.tasks.detection.drawing import scaled, with_boxes

        texts = [f"{line.text} {line.value}" for line in self.lines()] if named and self.shown else []
        boxes = scaled(self.boxes[: self.shown], self.size, image)
        return with_boxes(image, boxes, self.colors[: self.shown], texts)
