"""How far the objects that two runtimes find are from each other (docs/decisions/rounded-decisions.md)."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.tasks.loading import check_finite

log = logging.getLogger(__name__)

LEFT_OUT = 0.05  # part of the objects that a decision about nearly equal ones may change


def difference(expected: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]]) -> float:
    """The difference of the objects in all images from those expected, in standard deviations of these.

    Each object, of both sides, is compared with the nearest of its class on the other side: its box, its score, and
    what else it has. The difference is the largest of all objects but a twentieth of them. It is infinite if so many
    have no such object.

    expected, found: for each batch boxes (B, N, 4), scores (B, N), labels (B, N), perhaps masks (B, N, 28, 28); N may
    differ. Rows with a negative label fill up.
    """
    ours, theirs = ([rows for batch in side for rows in _images(batch)] for side in (expected, found))
    columns = list(zip(*ours, strict=True))
    scales = [_scale(torch.cat(column)) for name, column in enumerate(columns) if name != 1]
    errors = []
    for one, other in zip(ours, theirs, strict=True):
        if len(one) != len(other) or not all(bool(column.isfinite().all()) for column in other):
            return math.inf
        apart = _apart(one, other, scales)
        errors += [*_nearest(apart), *_nearest(apart.T)]
    if not errors:
        log.warning("the model finds no object in the images of the comparison: of boxes it says nothing")
        return 0.0
    errors.sort()
    return errors[math.ceil((1 - LEFT_OUT) * len(errors)) - 1]


def _images(batch: Sequence[Tensor]) -> list[list[Tensor]]:
    """The objects of each image: scores (N, 1), labels (N,), boxes (N, 4) and masks (N, 784) in double precision."""
    boxes, scores, numbers, *masks = batch
    found = []
    for i, there in enumerate(numbers >= 0):
        values = [column[i][there].double().flatten(1) for column in (boxes, *masks)]
        found.append([scores[i][there].double()[:, None], numbers[i][there].double(), *values])
    return found


def _scale(column: Tensor) -> float:
    if not column.numel():
        return 1.0
    check_finite(column)
    # At least a hundredth of the largest: sure scores are all nearly 1, and rounding must not count for more.
    return max(float(column.std(correction=0)), 1e-2 * float(column.abs().max()), 1e-30)


def _apart(one: Sequence[Tensor], other: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """The largest difference of any value of each pair of objects, infinite for two classes: (N, M)."""
    values, others = ([column for place, column in enumerate(side) if place != 1] for side in (one, other))
    apart = torch.full((len(one[1]), len(other[1])), -math.inf, dtype=torch.float64)
    for ours, theirs, scale in zip(values, others, scales, strict=True):
        apart = apart.maximum(torch.cdist(ours, theirs, p=math.inf) / scale)
    return apart.masked_fill(one[1][:, None] != other[1], math.inf)


def _nearest(apart: Tensor) -> list[float]:
    return (apart.amin(1) if apart.shape[1] else torch.full(apart.shape[:1], math.inf)).tolist()
