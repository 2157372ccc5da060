"""RetinaNet (arXiv 1708.02002): every anchor of every level is classified, and corrected to a box."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.models.arguments import Depth, Width
from glocal.models.detectors.anchors import AnchorGrid, by_anchor
from glocal.models.detectors.boxes import decode, encode, pairwise_iou, upcast
from glocal.models.detectors.head import DetectionHead
from glocal.models.detectors.losses import focal_loss, l1_loss
from glocal.models.detectors.matching import BACKGROUND, IGNORED, assign
from glocal.models.detectors.suppression import best_pairs, suppress
from glocal.models.heads import fpn
from glocal.models.heads.fpn import FPN

HEAD_ARGS: dict[str, Any] = {"width": Width, "depth": Depth}

POSITIVE, NEGATIVE = 0.5, 0.4  # limits of the IoU of an anchor with an object
PRIOR = 0.01  # probability of each class at the start of a training
SCORE, CANDIDATES, OVERLAP, DETECTIONS = 0.05, 1000, 0.5, 100  # of inference; candidates of each level


class RetinaNetHead(DetectionHead):
    """A feature pyramid of five levels; two towers of convolutions, which all levels share, on each.

    Args:
        dims: channels of the four maps, fine to coarse. The first is not used.
        num_classes: classes.
        width: channels of the pyramid and the towers.
        depth: convolutions of a tower.

    Losses: `loss_cls` (focal) and `loss_bbox` (L1), (5,) each: the levels at strides 8 to 128. See `DetectionHead`.
    """

    first_map = 1

    def __init__(self, dims: Sequence[int], num_classes: int, width: int = 256, depth: int = 4):
        super().__init__()
        self.num_classes = num_classes
        self.anchors = AnchorGrid((8, 16, 32, 64, 128), (0.5, 1.0, 2.0), [4 * 2 ** (i / 3) for i in range(3)])
        shapes = self.anchors.per_position
        self.class_tower, self.box_tower = (
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)) for _ in range(2)
        )
        self.classifier = nn.Conv2d(width, shapes * num_classes, 3, padding=1)
        self.regressor = nn.Conv2d(width, shapes * 4, 3, padding=1)
        for conv in (*self.class_tower, *self.box_tower, self.classifier, self.regressor):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.classifier.bias, -math.log((1 - PRIOR) / PRIOR))
        self.neck = FPN(dims[self.first_map :], width, coarser=2)

    def outputs(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits (B, anchors · classes, H, W) and codes (B, anchors · 4, H, W) of each level."""
        return [
            (self.classifier(_through(self.class_tower, x)), self.regressor(_through(self.box_tower, x)))
            for x in self.neck(maps[self.first_map :])
        ]

    def detections(self, maps, sizes):
        outputs = self.outputs(maps)
        anchors = self.anchors([codes for _, codes in outputs])
        rows = [(by_anchor(logits, self.num_classes), by_anchor(codes, 4)) for logits, codes in outputs]
        return [self._detections_of(place, rows, anchors, size) for place, size in enumerate(sizes)]

    def _detections_of(
        self, place: int, rows: list[tuple[Tensor, Tensor]], anchors: list[Tensor], size: Tensor
    ) -> dict[str, Tensor]:
        boxes, scores, labels = [], [], []
        for (logits, codes), level_anchors in zip(rows, anchors, strict=True):
            # Of the logits: the probabilities of all pairs would take longer than all that follows.
            pairs = best_pairs(logits[place], math.log(SCORE / (1 - SCORE)), CANDIDATES)
            boxes.append(decode(level_anchors[pairs.boxes], codes[place, pairs.boxes], size=size))
            scores.append(upcast(pairs.scores).sigmoid())
            labels.append(pairs.classes)
        boxes, scores, labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        kept = suppress(boxes, scores, labels, OVERLAP, DETECTIONS)
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}

    def losses(self, maps, sizes, targets, class_weights=None):
        outputs = self.outputs(maps)
        levels = self.anchors([codes for _, codes in outputs])
        with torch.no_grad():
            assigned = self.assigned([codes for _, codes in outputs], levels, sizes, targets)
            wanted = [self._wanted(*of_image, torch.cat(levels)) for of_image in zip(assigned, targets, strict=True)]
        positives = sum(max(int((of_image >= 0).sum()), 1) for of_image in assigned)
        counts = [len(anchors) for anchors in levels]
        labels, codes = (torch.stack(of_images).split(counts, 1) for of_images in zip(*wanted, strict=True))
        rows = zip(outputs, labels, codes, strict=True)
        of_classes, of_boxes = zip(*(self._losses_of(*level, positives, class_weights) for level in rows), strict=True)
        return {"loss_cls": torch.stack(of_classes), "loss_bbox": torch.stack(of_boxes)}

    def assigned(
        self, maps: Sequence[Tensor], levels: Sequence[Tensor], sizes: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> list[Tensor]:
        """The object of each anchor of all levels, an index, `BACKGROUND` or `IGNORED`: (anchors,) for each image.

        maps: (…, H, W) of each level. levels: their anchors.
        """
        anchors = torch.cat(levels)
        found = []
        for size, target in zip(sizes.tolist(), targets, strict=True):
            valid = torch.cat(self.anchors.valid(maps, size))
            overlaps = pairwise_iou(target["boxes"], anchors[valid])
            of_image = torch.full((len(anchors),), IGNORED, device=anchors.device)
            of_image[valid] = assign(overlaps, POSITIVE, NEGATIVE, claim=0)
            found.append(of_image)
        return found

    def _wanted(self, assigned: Tensor, target: Mapping[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
        """What each anchor should give: a label (N,), `num_classes` for background, `IGNORED` for any; codes (N, 4)."""
        found = assigned >= 0
        labels = torch.where(assigned == BACKGROUND, self.num_classes, assigned)
        labels[found] = target["labels"][assigned[found]]
        codes = torch.zeros_like(anchors)  # where there is no object, they are not used
        codes[found] = encode(anchors[found], target["boxes"][assigned[found]])
        return labels, codes

    def _losses_of(
        self,
        outputs: tuple[Tensor, Tensor],
        labels: Tensor,
        wanted: Tensor,
        positives: int,
        class_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The losses of a level: labels (B, N), wanted codes (B, N, 4)."""
        logits, codes = by_anchor(outputs[0], self.num_classes), by_anchor(outputs[1], 4)
        used = labels != IGNORED
        found = used & (labels < self.num_classes)
        return (
            focal_loss(upcast(logits)[used], labels[used], positives, class_weights),
            l1_loss(upcast(codes)[found], wanted[found], positives),
        )


def _through(tower: nn.ModuleList, x: Tensor) -> Tensor:
    for conv in tower:
        x = F.relu(conv(x))
    return x


# Official names to ours, below `bbox_head.` and `neck.`.
RENAMES = [
    (r"^cls_convs\.(\d+)\.conv\.", r"class_tower.\1."),
    (r"^reg_convs\.(\d+)\.conv\.", r"box_tower.\1."),
    (r"^retina_cls\.", "classifier."),
    (r"^retina_reg\.", "regressor."),
]
NECK_RENAMES = [
    *((rf"^fpn_convs\.{3 + i}\.conv\.", f"coarser.{i}.") for i in range(2)),  # after those of the three maps
    *fpn.RENAMES,
]
