"""Which object each box should find: assigning by overlap, and drawing a sample of the boxes for the loss."""

from collections.abc import Callable

import torch
from torch import Tensor

BACKGROUND = -1
IGNORED = -2

# (indices (N,), count) → `count` of the indices, in any order.
Choose = Callable[[Tensor, int], Tensor]


def assign(overlaps: Tensor, positive: float, negative: float, claim: float | None = None) -> Tensor:
    """The object of each box: an index, `BACKGROUND` or `IGNORED`, (boxes,) int64.

    A box whose best overlap is below `negative` is background, from `positive` on it is of its best object, the first
    of equal ones; between, it is ignored. Then each object claims all boxes that have exactly its best overlap, even
    from a better object: the last claim wins.

    Args:
        overlaps: (objects, boxes), the IoU of each pair.
        positive, negative: limits of the IoU.
        claim: the least best overlap with which an object claims boxes; None: objects claim none.

    Source: arXiv 1506.01497, section 3.1.2.
    """
    objects, boxes = overlaps.shape
    assigned = torch.full((boxes,), IGNORED, dtype=torch.int64, device=overlaps.device)
    if objects == 0 or boxes == 0:
        return assigned.fill_(BACKGROUND)
    best, index = overlaps.max(0)
    assigned = torch.where(best < negative, BACKGROUND, assigned)
    assigned = torch.where(best >= positive, index, assigned)
    if claim is None:
        return assigned
    best_of_object = overlaps.amax(1, keepdim=True)
    claims = (overlaps == best_of_object) & (best_of_object >= claim)
    order = torch.arange(1, objects + 1, dtype=torch.int32, device=overlaps.device)
    last = (claims * order[:, None]).amax(0)  # 1 more than the index of the last object that claims the box
    return torch.where(last > 0, last.long() - 1, assigned)


def sample(assigned: Tensor, count: int, most_positive: int, choose: Choose) -> tuple[Tensor, Tensor]:
    """Indices of positive boxes and of background boxes for the loss, ascending: `count` together, if there are enough.

    assigned: (boxes,), of `assign`. most_positive: positives at most; background fills up to `count`.
    choose: draws from the indices, if there are more than needed.
    """
    positives = _draw(assigned >= 0, most_positive, choose)
    return positives, _draw(assigned == BACKGROUND, count - len(positives), choose)


def _draw(mask: Tensor, count: int, choose: Choose) -> Tensor:
    indices = mask.nonzero().flatten()
    return choose(indices, count).sort().values if len(indices) > count else indices


def random_choice(indices: Tensor, count: int) -> Tensor:
    """`count` of the indices at random, by torch's generator of their device."""
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
