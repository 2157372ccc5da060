"""Faster R-CNN (arXiv 1506.01497), Mask R-CNN (1703.06870) and what Cascade R-CNN (1712.00726) adds to them.

A network proposes regions; a box head classifies each and corrects its box, in stages if there are several; a mask head
says which pixels of the final boxes are of the object. Inference and training follow the original code in which the
papers' models were trained, not torchvision, whose results differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glocal.models.arguments import Width
from glocal.models.detectors import box_head, mask_head, rpn
from glocal.models.detectors.anchors import PADDED_TO
from glocal.models.detectors.box_head import BoxHead
from glocal.models.detectors.boxes import decode, encode, giou_loss, pairwise_iou, upcast
from glocal.models.detectors.head import DetectionHead
from glocal.models.detectors.losses import averaged, cross_entropy, smooth_l1_loss
from glocal.models.detectors.mask_head import MaskHead, mask_loss, mask_targets, mean_logits
from glocal.models.detectors.matching import Choose, assign, random_choice, sample
from glocal.models.detectors.regions import region_features
from glocal.models.detectors.rpn import RPN
from glocal.models.detectors.suppression import best_pairs, suppress
from glocal.models.heads import fpn
from glocal.models.heads.fpn import FPN

HEAD_ARGS: dict[str, Any] = {"width": Width, "hidden": Width}

SAMPLED, SAMPLED_POSITIVE = 512, 128  # regions of an image in the loss, and at most of objects
SCORE, OVERLAP, DETECTIONS = 0.05, 0.5, 100  # of inference
GIOU_WEIGHT = 10.0


class Stage(NamedTuple):
    """One pass of a box head over regions.

    overlap: IoU from which a region is of an object, in training. scales: of the codes of boxes. weight: of its losses.
    claims: whether an object also gets the regions of its best IoU that are nearer to another one.
    """

    overlap: float
    scales: tuple[float, float, float, float]
    weight: float = 1.0
    claims: bool = False


ONE_STAGE = (Stage(0.5, (0.1, 0.1, 0.2, 0.2), claims=True),)


class Regions(NamedTuple):
    """Regions of an image that a loss sees: P of objects, then others.

    boxes: (N, 4). labels: (N,), background is the number of classes. owners: (P,), the place of each one's object.
    are_objects: (P,) bool, whether the region is the object itself.
    """

    boxes: Tensor
    labels: Tensor
    owners: Tensor
    are_objects: Tensor

    @property
    def positives(self) -> Tensor:
        return self.boxes[: len(self.owners)]


class RCNN(DetectionHead):
    """A feature pyramid, a network that proposes regions, and box and mask heads for them.

    Args:
        dims: channels of the four maps, fine to coarse.
        num_classes: classes.
        masks: whether objects get masks.
        stages: box heads; each after the first gets the boxes of the one before.
        decoded: whether the loss compares boxes by GIoU, and not their codes.
        beta: of the smooth L1 loss of codes, with which those of small errors count less; 0 is L1.
        proposals: arguments of the `RPN`.
        boxes: arguments of the `BoxHead`.
        width: channels of the pyramid.

    `choose` draws the anchors and regions for the losses; see `matching.Choose`. Targets of a head with masks have
    `masks` (N, h, w) bool or uint8 too, at least of the size of the image. Its detections have `masks` (N, 28, 28), the
    logits of the class of each in its box. Losses: `loss_rpn_cls` and `loss_rpn_bbox`, (5,) each; `loss_cls`,
    `loss_bbox`, `loss_mask`, and `acc`, the percentage of regions with the right class; those of several stages begin
    with `s0.` and so on. See `DetectionHead`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        masks: bool,
        stages: Sequence[Stage] = ONE_STAGE,
        decoded: bool = False,
        beta: float = 0.0,
        proposals: Mapping[str, Any] | None = None,
        boxes: Mapping[str, Any] | None = None,
        width: int = 256,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.has_masks = masks
        self.stages = tuple(stages)
        self.decoded = decoded
        self.beta = beta
        self.choose: Choose = random_choice
        self.neck = FPN(dims, width)
        self.rpn = RPN(width, **(proposals or {}))
        self.box_heads = nn.ModuleList(BoxHead(width, num_classes, **(boxes or {})) for _ in stages)
        self.mask_heads = nn.ModuleList(MaskHead(width, num_classes) for _ in stages if masks)

    def pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Five maps at strides 4 to 64; the last has every second position of the one before."""
        levels = self.neck(maps)
        return [*levels, levels[-1][:, :, ::2, ::2]]

    def detections(self, maps, sizes):
        pyramid = self.pyramid(maps)
        proposals = self.rpn.proposals(*self.rpn(pyramid), sizes)
        return [
            self._detections_of([x[i : i + 1] for x in pyramid[:4]], of_image.boxes, size)
            for i, (of_image, size) in enumerate(zip(proposals, sizes, strict=True))
        ]

    def _detections_of(self, maps: Sequence[Tensor], boxes: Tensor, size: Tensor) -> dict[str, Tensor]:
        """What is found in an image: of its maps, (1, C, H, W), and its proposals, (N, 4)."""
        total = 0
        for i, stage in enumerate(self.stages):
            logits, codes = self.classified(i, maps, [boxes])
            total = total + logits
            if i + 1 < len(self.stages):
                boxes = decode(boxes, of_class(codes, logits[:, :-1].argmax(1)), stage.scales, size)
        pairs = best_pairs((total / len(self.stages)).softmax(1)[:, :-1], SCORE)
        boxes, codes = boxes[pairs.boxes], of_class(codes[pairs.boxes], pairs.classes)
        boxes = decode(boxes, codes, self.stages[-1].scales, size)
        kept = suppress(boxes, pairs.scores, pairs.classes, OVERLAP, DETECTIONS)
        found = {"boxes": boxes[kept], "scores": pairs.scores[kept], "labels": pairs.classes[kept]}
        if self.mask_heads:
            found["masks"] = mean_logits(self.mask_logits(maps, found["boxes"], found["labels"]))
        return found

    def classified(self, stage: int, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What a stage says of the regions of each image, one after another: logits (N, K + 1), codes (N, 4 or 4·K)."""
        logits, codes = self.box_heads[stage](region_features(maps, boxes, box_head.SIDE))
        return upcast(logits), upcast(codes)

    def mask_logits(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> list[Tensor]:
        """What each mask head says of boxes of one image, for one class of each: (N, 28, 28)."""
        features = region_features(maps, [boxes], mask_head.SIDE)
        return [upcast(head.of_classes(features, labels)) for head in self.mask_heads]

    def losses(self, maps, sizes, targets, class_weights=None):
        pyramid = self.pyramid(maps)
        logits, codes = self.rpn(pyramid)
        boxes = [of_image.boxes for of_image in self.rpn.proposals(logits, codes, sizes)]
        sizes = sizes.tolist()
        losses = self.rpn.losses(logits, codes, sizes, targets, self.choose)
        for i, stage in enumerate(self.stages):
            regions = [self.draw(stage, *of_image) for of_image in zip(boxes, targets, strict=True)]
            logits, codes = self.classified(i, pyramid[:4], [one.boxes for one in regions])
            parts = self.box_losses(stage, logits, codes, regions, targets, class_weights)
            if self.mask_heads:
                parts["loss_mask"] = self.mask_loss(i, pyramid[:4], regions, targets, sizes)
            prefix = f"s{i}." if len(self.stages) > 1 else ""
            for name, value in parts.items():
                losses[prefix + name] = value * stage.weight if "loss" in name else value
            if i + 1 < len(self.stages):
                boxes = self.next_regions(i, logits, codes, regions, sizes)
        return losses

    def draw(self, stage: Stage, proposals: Tensor, target: Mapping[str, Tensor]) -> Regions:
        """The regions of an image that a stage is trained on, out of its objects and proposals (N, 4)."""
        objects = target["boxes"]
        overlaps = pairwise_iou(objects, proposals)
        assigned = assign(overlaps, stage.overlap, stage.overlap, claim=stage.overlap if stage.claims else None)
        assigned = torch.cat((torch.arange(len(objects), device=assigned.device), assigned))
        positives, negatives = sample(assigned, SAMPLED, SAMPLED_POSITIVE, self.choose)
        owners = assigned[positives]
        labels = torch.cat((target["labels"][owners], torch.full_like(negatives, self.num_classes)))
        boxes = torch.cat((objects, proposals))[torch.cat((positives, negatives))]
        return Regions(boxes, labels, owners, positives < len(objects))

    def box_losses(
        self,
        stage: Stage,
        logits: Tensor,
        codes: Tensor,
        regions: Sequence[Regions],
        targets: Sequence[Mapping],
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses of class and box, and the accuracy, of all regions of a batch."""
        labels = torch.cat([one.labels for one in regions])
        places = (labels < self.num_classes).nonzero()[:, 0]
        boxes = torch.cat([one.positives for one in regions])
        objects = torch.cat([target["boxes"][one.owners] for one, target in zip(regions, targets, strict=True)])
        found = of_class(codes[places], labels[places])
        if self.decoded:
            errors = giou_loss(decode(boxes, found, stage.scales), objects).sum()
            loss_box = GIOU_WEIGHT * averaged(errors, len(labels))
        else:
            loss_box = smooth_l1_loss(found, encode(boxes, objects, stage.scales), len(labels), self.beta)
        right = (logits.detach().argmax(1) == labels).sum()
        return {
            "loss_cls": cross_entropy(logits, labels, len(labels), class_weights),
            "acc": right.float() * (100 / max(len(labels), 1)),
            "loss_bbox": loss_box,
        }

    def mask_loss(self, stage: int, maps, regions: Sequence[Regions], targets, sizes) -> Tensor:
        """The loss of the masks of all regions that are of objects."""
        labels = torch.cat([one.labels[: len(one.owners)] for one in regions])
        features = region_features(maps, [one.positives for one in regions], mask_head.SIDE)
        logits = upcast(self.mask_heads[stage].of_classes(features, labels))
        wanted = [
            mask_targets(
                one.positives, one.owners, target["masks"], [-(-side // PADDED_TO) * PADDED_TO for side in size]
            )
            for one, target, size in zip(regions, targets, sizes, strict=True)
        ]
        return mask_loss(logits, torch.cat(wanted))

    @torch.no_grad()
    def next_regions(
        self, stage: int, logits: Tensor, codes: Tensor, regions: Sequence[Regions], sizes: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """The regions of each image for the stage after this one: corrected for the true class, or the likeliest.

        The objects themselves are left out: every stage gets them anew.
        """
        counts = [len(one.boxes) for one in regions]
        rows = zip(regions, logits.split(counts), codes.split(counts), sizes, strict=True)
        following = []
        for one, logit, code, size in rows:
            labels = torch.where(one.labels < self.num_classes, one.labels, logit[:, :-1].argmax(1))
            boxes = decode(one.boxes, of_class(code, labels), self.stages[stage].scales, size)
            following.append(torch.cat((boxes[: len(one.owners)][~one.are_objects], boxes[len(one.owners) :])))
        return following


def of_class(codes: Tensor, labels: Tensor) -> Tensor:
    """The codes for one class of each region, (N, 4): codes (N, 4·K), or (N, 4) for all classes; labels (N,)."""
    if codes.shape[1] == 4:
        return codes
    return codes.unflatten(1, (-1, 4))[torch.arange(codes.shape[0], device=codes.device), labels]


def faster_rcnn(dims: Sequence[int], num_classes: int, width: int = 256, hidden: int = 1024) -> RCNN:
    """Boxes alone. width: channels of the pyramid; hidden: of the box head. See `RCNN`."""
    return RCNN(dims, num_classes, masks=False, boxes={"hidden": hidden}, width=width)


def mask_rcnn(dims: Sequence[int], num_classes: int, width: int = 256, hidden: int = 1024) -> RCNN:
    """Boxes and masks. width: channels of the pyramid; hidden: of the box head. See `RCNN`."""
    return RCNN(dims, num_classes, masks=True, boxes={"hidden": hidden}, width=width)


# The authors' prefixes: ours, and their names below to ours.
PARTS = {
    "neck.": ("head.neck.", fpn.RENAMES),
    "rpn_head.": ("head.rpn.", rpn.RENAMES),
    "roi_head.": (
        "head.",
        [
            (r"^bbox_head\.(?=\D)", "box_heads.0."),
            (r"^mask_head\.(?=\D)", "mask_heads.0."),
            (r"^bbox_head\.", "box_heads."),
            (r"^mask_head\.", "mask_heads."),
            *box_head.RENAMES,
            *mask_head.RENAMES,
        ],
    ),
}
