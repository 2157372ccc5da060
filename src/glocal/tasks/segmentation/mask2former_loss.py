"""The loss of Mask2Former (arXiv 2112.01527, section 3.3): queries matched to masks, compared at random points."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.data.masks import IGNORE
from glocal.models.heads.mask2former import QueryPredictions
from glocal.ops import sample_points

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0  # of the costs and of the losses
NOTHING_WEIGHT = 0.1  # of the class for nothing
POINTS = 12544
OVERSAMPLE, IMPORTANT = 3, 0.75  # how many candidates for each point, and which part of the points is chosen of them
EPSILON = torch.finfo(torch.float32).eps  # in every divisor, as in the authors' library

Draw = Callable[..., Tensor]


class Masks(NamedTuple):
    """What is to be found in an image. classes: (n,); masks: (n, H, W), bool."""

    classes: Tensor
    masks: Tensor


def masks_of(labels: Tensor) -> Masks:
    """A mask for each class that a label map (H, W) holds; pixels with the label IGNORE belong to none."""
    classes = labels.unique()
    classes = classes[classes != IGNORE]
    return Masks(classes, labels == classes[:, None, None])


def mask2former_loss(
    predictions: Sequence[QueryPredictions],
    targets: Sequence[Masks],
    draw: Draw | None = None,
    share: Callable[[Tensor], Tensor] = lambda count: count,
) -> dict[str, Tensor]:
    """The losses of all predictions by name, and their sum as "loss".

    Args:
        predictions: before the first layer and after every layer, of a batch of B images.
        targets: of each image.
        draw: called as draw(shape), gives uniform numbers; by default torch.rand on the device of the predictions.
        share: the mean of a number of masks over all devices.
    """
    like = predictions[0].mask_logits
    draw = draw or partial(torch.rand, device=like.device, dtype=like.dtype)
    losses = {}
    for i, prediction in enumerate(predictions):
        prefix = "" if i == len(predictions) - 1 else f"d{i}."
        for name, value in _losses(prediction, targets, draw, share).items():
            losses[prefix + name] = value
    return losses | {"loss": torch.stack(list(losses.values())).sum()}


def matching_cost(class_logits: Tensor, mask_logits: Tensor, target: Masks, points: Tensor) -> Tensor:
    """What it costs to take each query for each mask of one image, (queries, n).

    class_logits: (queries, classes + 1); mask_logits: (queries, h, w); points: (1, P, 2).
    """
    predicted = sample_points(mask_logits[None], points)[0]  # (queries, P)
    wanted = sample_points(target.masks[None].to(mask_logits.dtype), points)[0]  # (n, P)
    classes = -class_logits.softmax(-1)[:, target.classes]
    inside = F.binary_cross_entropy_with_logits(predicted, torch.ones_like(predicted), reduction="none")
    outside = F.binary_cross_entropy_with_logits(predicted, torch.zeros_like(predicted), reduction="none")
    masks = (inside @ wanted.t() + outside @ (1 - wanted).t()) / predicted.shape[1]
    shares = predicted.sigmoid()
    overlap = 2 * shares @ wanted.t()
    dice = 1 - (overlap + 1) / (shares.sum(-1)[:, None] + wanted.sum(-1)[None] + 1)
    return CLASS_WEIGHT * classes + MASK_WEIGHT * masks + DICE_WEIGHT * dice


@torch.no_grad()
def match(prediction: QueryPredictions, targets: Sequence[Masks], draw: Draw) -> list[tuple[Tensor, Tensor]]:
    """For each image the matched queries, ascending, and the masks that they are matched to."""
    from scipy.optimize import linear_sum_assignment

    found = []
    for class_logits, mask_logits, target in zip(*prediction, targets, strict=True):
        cost = matching_cost(class_logits, mask_logits, target, draw((1, POINTS, 2)))
        # What is not a number fits nothing: the loss, which is none either, says it better than scipy.
        costs = np.nan_to_num(cost.cpu().double().numpy(), nan=1e9, posinf=1e9, neginf=-1e9)
        queries, masks = linear_sum_assignment(costs)
        device = class_logits.device
        found.append((torch.from_numpy(queries).to(device), torch.from_numpy(masks).to(device)))
    return found


def _losses(
    prediction: QueryPredictions, targets: Sequence[Masks], draw: Draw, share: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    class_logits, mask_logits = prediction
    matched = match(prediction, targets, draw)
    nothing = class_logits.shape[-1] - 1
    labels = torch.full(class_logits.shape[:2], nothing, device=class_logits.device)
    for row, (queries, masks), target in zip(labels, matched, targets, strict=True):
        row[queries] = target.classes[masks].to(labels.dtype)
    weights = class_logits.new_ones(nothing + 1)
    weights[-1] = NOTHING_WEIGHT
    total = F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), weights, reduction="sum")
    loss_class = total / (weights[labels].sum() + EPSILON)

    predicted = torch.cat([logits[queries] for logits, (queries, _) in zip(mask_logits, matched, strict=True)])
    count = share(class_logits.new_tensor(float(len(predicted)))).clamp(min=1)
    if not len(predicted):  # no gradient, but a part of the graph
        zero = mask_logits.sum() * 0
        return {"loss_cls": CLASS_WEIGHT * loss_class, "loss_mask": zero, "loss_dice": zero}
    points = uncertain_points(predicted.detach(), draw)
    wanted = _sampled_targets(targets, matched, points)
    logits = sample_points(predicted[:, None], points)[:, 0]  # (n, P)
    loss_mask = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / (count * POINTS + EPSILON)
    shares = logits.sigmoid()
    dice = 1 - (2 * (shares * wanted).sum(1) + 1) / (shares.sum(1) + wanted.sum(1) + 1)
    return {
        "loss_cls": CLASS_WEIGHT * loss_class,
        "loss_mask": MASK_WEIGHT * loss_mask,
        "loss_dice": DICE_WEIGHT * dice.sum() / (count + EPSILON),
    }


def uncertain_points(mask_logits: Tensor, draw: Draw) -> Tensor:
    """Points (n, P, 2) for masks (n, h, w): of random candidates those nearest to the border, and random others."""
    count = len(mask_logits)
    important = int(IMPORTANT * POINTS)
    candidates = draw((count, OVERSAMPLE * POINTS, 2))
    distance = sample_points(mask_logits[:, None], candidates)[:, 0].abs()
    nearest = distance.topk(important, largest=False).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat((chosen, draw((count, POINTS - important, 2))), 1)


def _sampled_targets(targets: Sequence[Masks], matched: Sequence[tuple[Tensor, Tensor]], points: Tensor) -> Tensor:
    """(n, P): each matched mask at its points; image by image, as their sizes may differ."""
    wanted, start = [], 0
    for target, (_, masks) in zip(targets, matched, strict=True):
        part = points[start : start + len(masks)]
        if len(masks):
            wanted.append(sample_points(target.masks[masks][:, None].to(points.dtype), part)[:, 0])
        start += len(masks)
    return torch.cat(wanted)
