"""Instances and panoptic segments of Mask2Former's queries (arXiv 2112.01527, section 4; 2107.06278, section 3.4).

The rules are those of the authors' code, facebookresearch/Mask2Former. Masks are resized one at a time, so that a large
image with many queries needs little memory.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glocal.errors import InvalidTypeError
from glocal.models.heads.mask2former import QueryPredictions
from glocal.models.heads.resize import resize_to

SURE = 0.8  # a query is a segment if its class has a higher probability than this
VISIBLE = 0.8  # part of a segment's mask that must be left to it
NONE = -1  # the id of pixels without a segment

Resize = Callable[[Tensor, Sequence[int]], Tensor]


class Instances(NamedTuple):
    """Objects in an image, the surest first. classes, scores: (n,); masks: (n, H, W) bool, which may overlap."""

    classes: Tensor
    scores: Tensor
    masks: Tensor


class PanopticSegments(NamedTuple):
    """Segments of an image. ids: (H, W) int64, the place of each pixel's segment in classes and scores, (n,), or -1."""

    ids: Tensor
    classes: Tensor
    scores: Tensor


def instances(
    outputs: QueryPredictions, size: Sequence[int], count: int = 100, resize: Resize = resize_to
) -> list[Instances]:
    """The objects in each image of a batch.

    A query may be an object of several classes: the `count` pairs of query and class with the highest probabilities are
    taken. The score is this probability times the mean probability of the mask's pixels. Objects without a pixel are
    left out.

    outputs: of B images. size: (H, W) of the masks. resize: brings mask logits (1, 1, h, w) to the size.
    Raises TypeError for logits.
    """
    found = []
    for class_logits, mask_logits in _images(outputs):
        probabilities = class_logits.softmax(-1)[:, :-1]  # (Q, C)
        scores, places = probabilities.flatten().topk(min(count, probabilities.numel()))
        queries, classes = places // probabilities.shape[1], places % probabilities.shape[1]
        used, mask_of = queries.unique(return_inverse=True)
        masks = torch.zeros(len(used), *size, dtype=torch.bool, device=scores.device)
        inside = scores.new_zeros(len(used))
        for i, query in enumerate(used.tolist()):
            logits = resize(mask_logits[None, query : query + 1], size)[0, 0]
            masks[i] = logits > 0
            if masks[i].any():
                inside[i] = logits[masks[i]].sigmoid().mean()
        scores = scores * inside[mask_of]
        order = scores.argsort(descending=True, stable=True)
        order = order[inside[mask_of[order]] > 0]
        found.append(Instances(classes[order], scores[order], masks[mask_of[order]]))
    return found


def panoptic(
    outputs: QueryPredictions,
    size: Sequence[int],
    things: Collection[int],
    sure: float = SURE,
    visible: float = VISIBLE,
    resize: Resize = resize_to,
) -> list[PanopticSegments]:
    """The segments of each image of a batch: a pixel has at most one.

    Queries whose most probable class is "nothing", or not more probable than `sure`, are left out. A pixel goes to the
    query with the largest product of the probabilities of class and mask, and belongs to its segment if that of the
    mask is at least 0.5. A segment to which less than `visible` of its mask's area goes is left out. Segments of a
    class that is no thing are one, with the highest of their scores.

    outputs: of B images. size: (H, W). things: the classes whose objects are counted. resize: brings mask logits
    (1, 1, h, w) to the size. Raises TypeError for logits.
    """
    found = []
    for class_logits, mask_logits in _images(outputs):
        scores, classes = class_logits.softmax(-1).max(-1)
        kept = ((classes != class_logits.shape[-1] - 1) & (scores > sure)).nonzero()[:, 0]
        scores, labels = scores[kept], classes[kept].tolist()
        owner, inside, areas = _shared_out(scores, mask_logits[kept], size, resize)
        owned, left = (of.bincount(minlength=len(kept)).tolist() for of in (owner[owner != NONE], owner[inside]))
        segments: dict[tuple, list[int]] = {}  # the queries of each
        for i, label in enumerate(labels):
            if left[i] and owned[i] / areas[i] >= visible:
                segments.setdefault((label, i if label in things else None), []).append(i)
        place_of = torch.full((len(kept) + 1,), NONE)
        for place, queries in enumerate(segments.values()):
            place_of[queries] = place
        ids = torch.where(inside, place_of.to(owner.device)[owner], NONE)
        firsts = [queries[0] for queries in segments.values()]
        highest = [scores[queries].max() for queries in segments.values()]
        found.append(PanopticSegments(ids, classes[kept[firsts]], torch.stack(highest) if highest else scores[:0]))
    return found


def _shared_out(
    scores: Tensor, mask_logits: Tensor, size: Sequence[int], resize: Resize
) -> tuple[Tensor, Tensor, list[int]]:
    """The query that each pixel goes to, (H, W), NONE without queries; whether it is in its mask; the masks' areas."""
    best = scores.new_full(tuple(size), -1)
    owner = torch.full(tuple(size), NONE, device=scores.device)
    inside = torch.zeros(tuple(size), dtype=torch.bool, device=scores.device)
    areas = []
    for i, score in enumerate(scores):
        mask = resize(mask_logits[None, i : i + 1], size)[0, 0].sigmoid()
        product, whole = score * mask, mask >= 0.5
        areas.append(int(whole.sum()))
        better = product > best
        best, owner = torch.where(better, product, best), owner.masked_fill(better, i)
        inside = torch.where(better, whole, inside)
    return owner, inside, areas


def _images(outputs: QueryPredictions) -> Iterable[tuple[Tensor, Tensor]]:
    """The class logits (Q, C + 1) and mask logits (Q, h, w) of each image."""
    if isinstance(outputs, Tensor):
        raise InvalidTypeError("instances and panoptic segments are made of queries, which only mask2former gives")
    return zip(*outputs, strict=True)
