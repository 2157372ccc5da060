"""The result of instance segmentation for an image."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glocal.tasks.detection.result import Detection

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass(frozen=True)
class Instances(Detection):
    """The objects in an image with their masks, the surest first.

    rles: the masks, in COCO's compressed run-length encoding.
    """

    rles: list[str] = field(default_factory=list)

    def parts(self) -> "Iterator[np.ndarray]":
        """The masks (H, W) of the objects that pictures show, one by one."""
        for place in range(min(self.shown, len(self.rles))):
            yield self._masks_of([place])[0]

    def _masks_of(self, places):
        from glocal.tasks.detection.masks import masks_of_texts

        return masks_of_texts([self.rles[place].encode() for place in places], self.size or (0, 0))

    def annotations(self) -> Iterator[dict[str, Any]]:
        from glocal.data.segments import runs_of_text

        for about, text in zip(super().annotations(), self.rles, strict=True):
            yield about | {"area": sum(runs_of_text(text)[1::2]), "segmentation": {"size": self.size, "counts": text}}

    def on(self, image: "Image.Image", named: bool = False) -> "Image.Image":
        from glocal.tasks.detection.drawing import with_masks

        return super().on(with_masks(image, self.parts(), self.colors[: self.shown]), named)
