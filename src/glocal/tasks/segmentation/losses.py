"""Losses on label maps.

Each takes logits (B, C, h, w), which are resized to the labels, labels (B, H, W) with IGNORE, and (C,) weights of the
classes or None. It gives a number, computed in float32 also under autocast, or in float64 for logits in float64. If all
pixels are ignored, it is 0, with a gradient of 0.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.data.masks import IGNORE
from glocal.errors import InvalidValueError
from glocal.models.heads.resize import resize_to
from glocal.wording import shown

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

GAMMA = 2.0  # the focal loss' power, the best in its paper


def pixel_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy, divided by all pixels of the batch.

    Pixels with the label IGNORE add nothing to the sum, but count in the divisor, as in the authors' trainings.
    """
    total = F.cross_entropy(_at_labels(logits, labels), labels, weight, ignore_index=IGNORE, reduction="sum")
    return total / labels.numel()


def focal_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """(1 − p)^2 · cross-entropy, p being the label's probability: mean over the pixels that are not ignored.

    Source: Lin et al., arXiv 1708.02002, equation 5, with softmax in the place of sigmoid.
    """
    loss = F.cross_entropy(_at_labels(logits, labels), labels, ignore_index=IGNORE, reduction="none")  # 0 where ignored
    loss = (-torch.expm1(-loss)) ** GAMMA * loss
    if weight is not None:
        loss = loss * weight[labels.clamp(min=0)]
    return loss.sum() / (labels != IGNORE).sum().clamp(min=1)


def dice_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 − (2 Σ p·g + 1) / (Σ p + Σ g + 1) of each class in the batch, p its probability and g 0 or 1: their mean.

    Sums are over all pixels of the batch that are not ignored. With weights it is their weighted mean.
    Source: Milletari et al., arXiv 1606.04797, with sums of p instead of p² and + 1 as in Mask2Former's dice.
    """
    probabilities = _at_labels(logits, labels).softmax(1)
    counted = labels != IGNORE
    counts = labels[counted].bincount(minlength=probabilities.shape[1])
    right = probabilities.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    both = right.new_zeros(len(counts)).index_add(0, labels[counted], right[counted])
    total = (probabilities * counted[:, None]).sum((0, 2, 3)) + counts
    present = counts > 0
    losses = 1 - (2 * both + 1) / (total + 1)
    return _mean_of_classes(losses[present], None if weight is None else weight[present])


def lovasz_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Lovász-Softmax: the convex surrogate of 1 − IoU of each class in the batch, and their (weighted) mean.

    Source: Berman et al., arXiv 1705.08790, equations 9, 11 and 12; the gradient of algorithm 1 in closed form. The
    pixels of the batch are sorted once for each class that it has.
    """
    probabilities = _at_labels(logits, labels).softmax(1)
    counted = labels != IGNORE
    rows, labels = probabilities.transpose(0, 1)[:, counted], labels[counted]  # (C, N), (N,)
    if not len(labels):
        return rows.sum()
    classes, losses = labels.unique(), []
    rows = rows.unbind()  # the gradient of rows[c] would be as large as all rows, for each class
    for c in classes.tolist():
        there = labels == c
        errors, order = torch.where(there, 1 - rows[c], rows[c]).sort(descending=True)
        losses.append((errors * _lovasz_gradient(there[order], errors.dtype)).sum())
    return _mean_of_classes(torch.stack(losses), None if weight is None else weight[classes])


def _lovasz_gradient(there: Tensor, dtype: torch.dtype) -> Tensor:
    """What each pixel adds to 1 − IoU if pixels (N,), the worst first, are taken for wrong one after the other.

    there: bool, whether the pixel is of the class. A pixel of the class takes 1 from the intersection; another adds 1
    to the union. The steps are fractions here, since the difference of two numbers near 1 has no digits in float32.
    """
    total = there.sum()
    intersection = total - there.cumsum(0)
    union = (total + (~there).cumsum(0)).to(dtype)
    return torch.where(there, 1 / union, intersection / (union * (union - 1).clamp(min=1)))


LOSSES: dict[str, Loss] = {
    "ce": pixel_cross_entropy,
    "dice": dice_loss,
    "focal": focal_loss,
    "lovasz": lovasz_loss,
}


def find_loss(name: str) -> Loss:
    """The loss of a name in LOSSES, or the sum of several, as "ce+dice"; InvalidValueError for other names."""
    parts = [part.strip() for part in name.split("+")]
    for part in parts:
        if part not in LOSSES:
            raise InvalidValueError(f"{shown(part)} is no loss: choose from {', '.join(LOSSES)}, or a sum as ce+dice")
    if len(set(parts)) < len(parts):
        raise InvalidValueError(f"the loss {shown(name)} names a part twice")
    if len(parts) == 1:
        return LOSSES[parts[0]]

    def added(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        logits = _at_labels(logits, labels)  # once for all
        return torch.stack([LOSSES[part](logits, labels, weight) for part in parts]).sum()

    return added


def class_weights(counts: Tensor, how: str) -> Tensor:
    """(C,) float32: weights of the classes, with mean 1 over the classes that occur; 1 for the others.

    counts: (C,), pixels of each class. how: "balanced" for 1 / frequency, "sqrt" for 1 / √frequency, which is milder to
    classes of very few pixels.
    """
    powers = {"balanced": -1.0, "sqrt": -0.5}
    if how not in powers:
        raise InvalidValueError(f"{shown(how)} says nothing about class weights: choose from {', '.join(powers)}")
    occurs = counts > 0
    weights = torch.ones(len(counts), dtype=torch.float64)
    if occurs.any():
        raised = counts[occurs].double() ** powers[how]
        weights[occurs] = raised / raised.mean()
    return weights.float()


def _at_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits at the labels' size, (B, C, H, W), in float32 or float64."""
    if logits.dtype != torch.float64:
        logits = logits.float()
    return logits if logits.shape[2:] == labels.shape[1:] else resize_to(logits, labels.shape[1:])


def _mean_of_classes(losses: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted mean of losses (K,); 0 for none of them, or if all weights are 0."""
    weight = torch.ones_like(losses) if weight is None else weight.to(losses)
    total = weight.sum()
    return (losses * weight).sum() / torch.where(total > 0, total, 1)
