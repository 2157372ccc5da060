"""The objects of images with their masks, at the size of the images."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from glocal.data.batch import Batch
from glocal.models.detectors.paste import paste
from glocal.tasks.detection.inference import at_image, outputs_of_images
from glocal.tasks.detection.masks import AT_ONCE, texts_of_masks, to_bytes


def predict(
    compute: Callable[[Tensor, Tensor], Sequence[Tensor]], batch: Batch, args: dict[str, Any]
) -> list[list[Tensor]]:
    """The boxes (N, 4), scores (N,), labels (N,), and run lengths of masks in each image of a batch.

    Five lists of B tensors; the last two are those of `to_bytes`. A few masks at a time, so that large images need
    little memory. compute, args: as of `glocal.tasks.detection.inference.predict`.
    """
    found: list[list[Tensor]] = [[]] * len(batch)
    for place, outputs in outputs_of_images(compute, batch):
        geometry = batch.geometry[place]
        boxes, scores, labels, logits = at_image(outputs, geometry)
        step = max(1, AT_ONCE // (geometry.size[0] * geometry.size[1]))
        texts = []
        for first in range(0, len(boxes), step):
            part = slice(first, first + step)
            texts += texts_of_masks(paste(logits[part], boxes[part].to(logits), geometry.size))
        found[place] = [boxes, scores, labels, *to_bytes(texts)]
    return [list(column) for column in zip(*found, strict=True)]
