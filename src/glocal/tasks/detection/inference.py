"""The objects of images, at the size of the images."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glocal.data.batch import Batch
from glocal.data.geometry import Geometry
from glocal.data.prepare import own_size
from glocal.tasks.loading import check_finite
from glocal.tasks.segmentation.inference import of_one_size

Compute = Callable[[Tensor, Tensor], Sequence[Tensor]]


def predict(compute: Compute, batch: Batch, args: dict[str, Any]) -> list[list[Tensor]]:
    """The boxes (N, 4), scores (N,) and labels (N,) in each image of a batch: three lists of B tensors.

    compute: the module of `glocal.tasks.detection.outputs.Detections`. Images of one size are computed at once, without
    what a batch has added to them, so that the others of a batch change nothing.
    """
    found: list[list[Tensor]] = [[]] * len(batch)
    for place, outputs in outputs_of_images(compute, batch):
        found[place] = at_image(outputs, batch.geometry[place])
    return [list(column) for column in zip(*found, strict=True)]


def outputs_of_images(compute: Compute, batch: Batch):
    """The place of each image of a batch, and the model's outputs for it, without rows that fill up.

    RuntimeError for NaN and infinity.
    """
    for places in of_one_size(batch):
        images = torch.stack([own_size(batch.images[i], batch.geometry[i]) for i in places])
        sizes = torch.tensor([batch.geometry[i].input_size for i in places], device=images.device)
        outputs = compute(images.contiguous(memory_format=torch.channels_last), sizes)
        for output in outputs:
            check_finite(output)
        for row, i in enumerate(places):
            there = outputs[2][row] >= 0
            yield i, [output[row][there] for output in outputs]


def at_image(outputs: Sequence[Tensor], geometry: Geometry) -> list[Tensor]:
    """The outputs for an image with boxes in pixels of the image, float64, clipped to it."""
    boxes, *others = outputs
    top, left, bottom, right = geometry.box
    height, width = geometry.input_size
    scale = boxes.new_tensor([(right - left) / width, (bottom - top) / height] * 2, dtype=torch.float64)
    boxes = boxes.double() * scale + scale.new_tensor([left, top] * 2)
    limits = scale.new_tensor(geometry.size[::-1] * 2)
    return [boxes.clamp(min=0).minimum(limits), *others]
