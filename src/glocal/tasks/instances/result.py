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
        from glocal.tasks.detection.masks import masks_of_texts

        for text in self.rles[: self.shown]:
            yield masks_of_texts([text.encode()], self.size)[0]

    def annotations(self) -> Iterator[dict[str, Any]]:
        from glocal.data.segments import runs_of_text

        for about, text in zip(super().annotations(), self.rles, strict=True):
            yield about | {"area": sum(runs_of_text(text)[1::2]), "segmentation": {"size": self.size, "counts": text}}

    def on(self, image: "Image.Image", named: bool = False) -> "Image.Image":
        from glocal.tasks.detection.drawing import with_masks

        return super().on(with_masks(image, self.parts(), self.colors[: self.shown]), named)
