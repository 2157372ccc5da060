"""What all heads of detectors do with their inputs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from glocal.errors import InvalidValueError
from glocal.models.detectors.targets import checked
from glocal.wording import counted


class DetectionHead(nn.Module):
    """A head that finds objects in the maps of a backbone.

    `forward(maps, sizes, targets)`: `maps` are the four maps of the backbone at strides 4, 8, 16 and 32, (B, C, H, W);
    `sizes` (B, 2), int64 or a list, is (height, width) of each image before padding.

    In eval mode, without targets, a list of a dict for each image: `boxes` (N, 4), x1, y1, x2, y2 in pixels of the
    network's input; `scores` (N,), descending; `labels` (N,) int64, from 0.

    In training mode a dict of losses by the names of the authors' code. A loss of several levels is (levels,), others
    are scalars; the sum of all whose name contains "loss" is to be minimised. `targets` is for each image a dict:
    `boxes` (N, 4), `labels` (N,), of heads with masks also `masks` (N, h, w), at least of the image's size; N may be 0.
    class_weights: (classes,), how much each class counts in the losses of classes; background counts 1, and None is 1
    for all, as published. ValueError says what is wrong in targets or sizes.

    num_classes: classes. first_map: index of the first of the four maps that the head uses. has_masks: whether objects
    have masks.
    """

    num_classes: int
    first_map = 0
    has_masks = False

    def forward(
        self,
        maps: Sequence[Tensor],
        sizes: Tensor | Sequence[Sequence[int]],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        class_weights: Tensor | None = None,
    ) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        if self.training != (targets is not None):
            raise InvalidValueError("targets are for training mode, which needs them, and for that alone")
        images = len(maps[0])
        sizes = torch.as_tensor(sizes, dtype=torch.int64, device=maps[0].device)
        if sizes.shape != (images, 2):
            raise InvalidValueError(
                f"sizes of {counted(images, 'image')} must be ({images}, 2), not {tuple(sizes.shape)}"
            )
        if targets is None:
            return self.detections(maps, sizes)
        targets = checked(targets, sizes.tolist(), self.num_classes, self.has_masks, maps[0])
        return self.losses(maps, sizes, targets, class_weights)

    @abstractmethod
    def detections(self, maps: Sequence[Tensor], sizes: Tensor) -> list[dict[str, Tensor]]:
        """What eval mode returns."""

    @abstractmethod
    def losses(
        self,
        maps: Sequence[Tensor],
        sizes: Tensor,
        targets: Sequence[Mapping[str, Tensor]],
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What training mode returns."""


class QueryHead(DetectionHead):
    """A head whose queries find objects, equally many in every image."""

    @abstractmethod
    def best(self, maps: Sequence[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The surest pairs of a query and a class: boxes (B, N, 4), corners in pixels; scores and labels (B, N)."""

    def detections(self, maps, sizes):
        rows = zip(*self.best(maps, sizes), strict=True)
        return [{"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in rows]


def surest(logits: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` pairs of a query and a class with the highest scores: boxes (B, N, 4), scores and labels (B, N).

    logits: (B, Q, classes), in single precision at least. boxes: (B, Q, 4), of any kind.
    """
    classes = logits.shape[2]
    scores, index = logits.sigmoid().flatten(1).topk(count, dim=1)
    query = torch.div(index, classes, rounding_mode="floor")
    return boxes.gather(1, query.unsqueeze(-1).expand(-1, -1, 4)), scores, index % classes
