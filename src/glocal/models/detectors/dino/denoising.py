"""Contrastive denoising (arXiv 2203.03605, section 3.3): queries made of the objects, with noise, for training alone.

A group has, for the n objects of the image that has most, n positive queries, whose boxes are near an object, and then
n negative ones, farther away.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from glocal.models.detectors.boxes import upcast
from glocal.models.detectors.dino.box_logits import from_corners, logit, scale_of

QUERIES = 100  # positive ones, as nearly as whole groups allow
OTHER_CLASS = 0.25  # probability of a random class in place of the object's
NOISE = 0.5  # of a side, by which a corner of a positive box moves at most
NOISE_EPS = 1e-3  # of the logits of the noisy boxes


class Random(Protocol):
    """Draws the noise; results may be tensors or arrays."""

    def uniform(self, shape: tuple[int, ...]) -> Tensor | np.ndarray:
        """Numbers of [0, 1)."""

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor | np.ndarray:
        """Whole numbers of [low, high)."""


class TorchRandom:
    """Draws with torch's generator of the CPU, the same on every device."""

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape)

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, shape)


class Noisy(NamedTuple):
    """Denoising queries, D = 2 · size · groups of them; size is the largest number of objects of an image.

    content: (B, D, dim). boxes: (B, D, 4), logits of (cx, cy, w, h) relative to the image. An image with fewer objects
    has zeros in the place of each missing one.
    """

    content: Tensor
    boxes: Tensor
    size: int
    groups: int


class Denoising(nn.Module):
    """An embedding for each class, and the noise.

    random: where the noise comes from (see `Random`); may be replaced.
    """

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.label_embed = nn.Parameter(torch.empty(num_classes, dim))
        self.random: Random = TorchRandom()

    def reset_parameters(self):
        nn.init.normal_(self.label_embed)

    def forward(self, targets: Sequence[Mapping[str, Tensor]], sizes: Tensor) -> Noisy:
        """targets: of each image `boxes` (N, 4), corners in pixels, and `labels` (N,). sizes: (B, 2)."""
        like, wide = self.label_embed, upcast(self.label_embed)  # lower precision has no 1333
        counts = [len(target["labels"]) for target in targets]
        size = max(counts)
        groups = groups_of(size)
        content = like.new_zeros(len(targets), 2 * groups * size, like.shape[1])
        logits = wide.new_zeros(len(targets), 2 * groups * size, 4)
        if size == 0:
            return Noisy(content, logits, size, groups)
        labels = torch.cat([target["labels"] for target in targets])
        boxes = torch.cat(
            [target["boxes"].to(wide) / scale_of(own, wide) for target, own in zip(targets, sizes, strict=True)]
        )
        # All objects of the batch, image by image, in copies: the positive ones of a group, then its negative ones.
        copies = 2 * groups
        image = torch.cat([torch.full((count,), i) for i, count in enumerate(counts)]).repeat(copies)
        place = torch.cat([torch.arange(count) for count in counts]).repeat(copies)
        copy = torch.arange(copies).repeat_interleave(len(labels))
        queries = image.to(like.device), (copy * size + place).to(like.device)
        content = content.index_put(queries, self.label_embed[self._noisy_labels(labels.repeat(copies))])
        negative = (copy % 2 == 1).to(like.device)
        logits = logits.index_put(queries, logit(self._noisy_boxes(boxes.repeat(copies, 1), negative), NOISE_EPS))
        return Noisy(content, logits, size, groups)

    def _noisy_labels(self, labels: Tensor) -> Tensor:
        chosen = self._uniform(labels.shape) < OTHER_CLASS
        others = self._integers(len(self.label_embed), (int(chosen.sum()),))
        return labels.masked_scatter(chosen, others.to(labels.dtype))

    def _noisy_boxes(self, boxes: Tensor, negative: Tensor) -> Tensor:
        """Corners (N, 4) → (cx, cy, w, h), (N, 4), moved; negative: (N,), bool."""
        sign = 2.0 * self._integers(2, boxes.shape).to(boxes.dtype) - 1
        distance = self._uniform(boxes.shape).to(boxes.dtype) + negative.unsqueeze(1)
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        # Corners may have changed sides: such a box has no width or height.
        return from_corners((boxes + sign * distance * sides * NOISE).clamp(0, 1)).clamp(min=0)

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.as_tensor(self.random.uniform(tuple(shape)), device=self.label_embed.device)

    def _integers(self, high: int, shape: Sequence[int]) -> Tensor:
        return torch.as_tensor(self.random.integers(0, high, tuple(shape)), device=self.label_embed.device)


def groups_of(size: int) -> int:
    """Groups for images with at most `size` objects: at least one, and about `QUERIES` positive queries together."""
    return max(1, QUERIES // size) if size else 1


def hidden_pairs(size: int, groups: int, num_queries: int, device: torch.device) -> Tensor:
    """Which query does not see which, (D + num_queries)², true where hidden: denoising queries come first.

    A group sees itself and the matched queries; these see no group, and no group sees another.
    """
    of_group = torch.arange(groups, device=device).repeat_interleave(2 * size)
    group = torch.cat((of_group, torch.full((num_queries,), -1, device=device)))
    return (group.unsqueeze(0) != -1) & (group.unsqueeze(1) != group.unsqueeze(0))
