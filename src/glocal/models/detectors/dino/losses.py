"""DINO's losses: of matched queries, of the encoder's choice and of the denoising queries."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from glocal.models.detectors.boxes import giou_loss, upcast
from glocal.models.detectors.dino.box_logits import corners, from_corners, scale_of
from glocal.models.detectors.dino.denoising import Noisy
from glocal.models.detectors.dino.matching import Matched
from glocal.models.detectors.losses import averaged, focal_loss, l1_loss

BOX_WEIGHT, GIOU_WEIGHT = 5.0, 2.0


def losses_of(
    class_logits: Tensor,
    boxes: Tensor,
    matched: Sequence[Matched],
    targets: Sequence[Mapping[str, Tensor]],
    sizes: Tensor,
    count: Tensor,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of one set of predictions: `loss_cls`, `loss_bbox`, `loss_iou`, scalars.

    class_logits: (B, Q, classes). boxes: (B, Q, 4), (cx, cy, w, h) relative to the image. matched: of each image; all
    other queries should find nothing. targets: of each image `boxes` (N, 4), corners in pixels, and `labels` (N,).
    sizes: (B, 2). count: by which the sums are divided. class_weights: (classes,), see `DetectionHead`.
    """
    labels = torch.full(class_logits.shape[:2], class_logits.shape[2], device=class_logits.device)
    wanted, scales = [], []
    for row, (queries, objects), target, size in zip(labels, matched, targets, sizes, strict=True):
        row[queries] = target["labels"][objects]
        wanted.append(target["boxes"][objects])
        scales.append(scale_of(size, boxes).expand(len(objects), 4))
    predicted = upcast(torch.cat([own[queries] for own, (queries, _) in zip(boxes, matched, strict=True)]))
    wanted, scale = torch.cat(wanted).to(predicted), torch.cat(scales).to(predicted)
    overlap = giou_loss(corners(predicted) * scale, wanted)
    return {
        "loss_cls": focal_loss(upcast(class_logits).flatten(0, 1), labels.flatten(), count, class_weights),
        "loss_bbox": BOX_WEIGHT * l1_loss(predicted, from_corners(wanted / scale), count),
        "loss_iou": GIOU_WEIGHT * averaged(overlap.sum(), count),
    }


def of_denoising(noisy: Noisy, targets: Sequence[Mapping[str, Tensor]], device: torch.device) -> list[Matched]:
    """The positive denoising queries of each image, and the objects that they are made of."""
    found = []
    for target in targets:
        objects = torch.arange(len(target["labels"]), device=device).repeat(noisy.groups, 1)
        first = 2 * noisy.size * torch.arange(noisy.groups, device=device).unsqueeze(1)
        found.append(((first + objects).flatten(), objects.flatten()))
    return found
