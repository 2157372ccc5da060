"""The objects of a large image that several of its tiles show, each once."""

from collections.abc import Iterator

import torch
from torch import Tensor

COVERED = 0.5  # of the smaller of two boxes of neighbouring tiles, from which on they are of one object
AT_ONCE = 2**22  # pairs of boxes that are compared at a time


def kept_of_tiles(boxes: Tensor, scores: Tensor, labels: Tensor, tiles: Tensor) -> Tensor:
    """The places of the objects of several tiles, each once, by falling score.

    Two tiles show an object where they overlap, one of them perhaps a part of it. Of two boxes of one class in two
    tiles, the one with the lower score is left out if they share more than half of the smaller one; boxes of one tile
    are the model's own and stay.

    boxes (N, 4) float64, scores, labels and tiles (N,). For boxes that are small against the image, the time grows as
    N · log N.
    """
    order = scores.argsort(descending=True, stable=True)
    ranks = order.argsort()
    pairs = [ranks[pair].sort(0).values for pair in shown_twice(boxes, labels, tiles)]
    better, worse = torch.cat(pairs, 1) if pairs else torch.zeros(2, 0, dtype=torch.int64)
    better, by_rank = better.sort()
    left = [True] * len(order)
    for one, other in zip(better.tolist(), worse[by_rank].tolist(), strict=True):
        if left[one]:
            left[other] = False
    return order[torch.tensor(left, dtype=torch.bool)]


def shown_twice(boxes: Tensor, labels: Tensor, tiles: Tensor) -> Iterator[Tensor]:
    """The places, (2, pairs), of boxes of one class in two tiles that share more than half of the smaller one."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for one, other in with_middle_inside(boxes, labels):
        first, last = torch.maximum(boxes[one, :2], boxes[other, :2]), torch.minimum(boxes[one, 2:], boxes[other, 2:])
        shared = (last - first).clamp(min=0).prod(1)
        same = (tiles[one] != tiles[other]) & (shared > COVERED * torch.minimum(areas[one], areas[other]))
        yield torch.stack([one[same], other[same]])


def with_middle_inside(boxes: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The places of all pairs of a box and a box of the same class whose middle lies in it, some at a time.

    What two boxes share contains the middle of the smaller one if it is more than half of this: so no other pairs need
    to be compared. Middles are sorted by class, row and x, where a row is as high as the mean box; a box looks into
    the rows that it reaches, and in each into the part between its sides. Rounding may add pairs nearby.
    """
    if not len(boxes):
        return
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    step = max(float((boxes[:, 3] - boxes[:, 1]).mean()), 1.0)
    rows = int(boxes[:, 3].max() / step) + 2
    width = float(boxes[:, 2].max()) + 1
    keys, order = ((labels * rows + (middles[:, 1] / step).long()) * width + middles[:, 0]).sort()
    margin = 4 * torch.finfo(keys.dtype).eps * (float(keys[-1]) + width)

    first, last = ((boxes[:, axis] / step).long() for axis in (1, 3))
    owners, row = expanded(first, last + 1)
    begin = (labels[owners] * rows + row) * width
    starts = torch.searchsorted(keys, begin + boxes[owners, 0] - margin)
    stops = torch.searchsorted(keys, begin + boxes[owners, 2] + margin, right=True)
    portions = (stops - starts).cumsum(0) // AT_ONCE
    for some in torch.arange(len(owners)).split(portions.unique_consecutive(return_counts=True)[1].tolist()):
        which, places = expanded(starts[some], stops[some])
        yield owners[some][which], order[places]


def expanded(starts: Tensor, stops: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers of some ranges, one after another, and for each the place of its range: (places, numbers)."""
    counts = (stops - starts).clamp(min=0)
    which = torch.arange(len(counts)).repeat_interleave(counts)
    return which, torch.arange(len(which)) - (counts.cumsum(0) - counts - starts)[which]
