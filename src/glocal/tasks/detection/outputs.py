"""What is computed for images: boxes as tensors, with as many rows for each image."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.tasks.detection.agreement import difference

NOTHING = -1  # the label of a row that fills up
FILLS = {"boxes": 0, "scores": 0, "labels": NOTHING, "masks": 0}  # the columns, and what rows that fill up hold


def filled_up(found: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """The columns of what heads give for each image, with as many rows for each."""
    if len(found) == 1:  # in graphs, the number of objects is not known
        return [found[0][name][None] for name in FILLS if name in found[0]]
    most = max(len(one["scores"]) for one in found)
    return [
        torch.stack([_longer(one[name], most, value) for one in found])
        for name, value in FILLS.items()
        if name in found[0]
    ]


def _longer(rows: Tensor, count: int, value: float) -> Tensor:
    more = (0, 0) * (rows.ndim - 1) + (0, count - len(rows))
    return F.pad(rows, more, value=value)


def joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The outputs for a batch, from those for its images one by one."""
    names = list(FILLS)[: len(parts[0])]  # not every model has masks
    return filled_up([dict(zip(names, (column[0] for column in part), strict=True)) for part in parts])


class Detections(nn.Module):
    """The objects that a detector finds, as tensors.

    `module(images, sizes)`: images (B, C, H, W) with zeros at the right and bottom, sizes (B, 2), (height, width) of
    each before; by default (H, W). It returns boxes (B, N, 4), x1, y1, x2, y2 in pixels of the input; scores (B, N),
    descending; labels (B, N) int64; and of a model with masks, their logits (B, N, 28, 28). N is the largest number of
    objects in an image; in the others, rows with score 0 and label -1 follow.
    """

    takes_sizes = True
    joined = staticmethod(joined)
    difference = staticmethod(difference)

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        return filled_up(self.model(images, sizes))
