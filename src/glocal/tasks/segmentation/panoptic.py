"""Panoptic quality (Kirillov et al., arXiv 1801.00868): every pixel belongs to a segment, and a segment to a class."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glocal.data.masks import IGNORE
from glocal.tasks.metrics import Metrics

MATCH = 0.5  # IoU above which two segments match; no segment then matches two others
FORGIVEN = 0.5  # share of a segment in ignored pixels or a crowd above which it is no error that nothing matches it


class Segments(NamedTuple):
    """The segments of an image.

    ids: (H, W), the place of each pixel's segment in `classes`, or IGNORE. classes: (S,), labels of classes; a class
    may have several segments. crowd: (S,) bool, segments that hold objects which nobody told apart; None: no segment.
    """

    ids: Tensor
    classes: Tensor
    crowd: Tensor | None = None


class Counts(NamedTuple):
    """Of each class, (C,): sum of the matches' IoU (float64), and numbers of matched, false and missed segments."""

    iou: Tensor
    matched: Tensor
    false: Tensor
    missed: Tensor


def panoptic_quality(prediction: Segments, target: Segments, classes: int) -> Counts:
    """The counts of one image, of which the panoptic quality of many is computed.

    prediction: without crowds; its ignored pixels belong to no segment. target: with crowds; its ignored pixels count
    nowhere. A predicted and a target's segment match if they have the same class, the target's is no crowd, and their
    IoU, without the target's ignored pixels, is more than 0.5. A predicted segment is not counted as false if more than
    half of it lies in ignored pixels or in crowds of its class (section 4.2 and the authors' panopticapi).
    Raises ValueError if the sizes differ, or if an id or a class does not exist.
    """
    if prediction.ids.shape != target.ids.shape:
        raise ValueError(
            f"the prediction has {tuple(prediction.ids.shape)} pixels, its target {tuple(target.ids.shape)}"
        )
    _check(prediction, classes)
    _check(target, classes)
    crowd = torch.zeros_like(target.classes, dtype=torch.bool) if target.crowd is None else target.crowd
    found, wanted = len(prediction.classes), len(target.classes)
    pairs = (target.ids.long() + 1) * (found + 1) + prediction.ids.long() + 1  # place 0: ignored
    areas = pairs.flatten().bincount(minlength=(wanted + 1) * (found + 1)).view(wanted + 1, found + 1)
    both = areas[1:, 1:].double()  # (wanted, found)
    of_found, of_wanted = areas.sum(0)[1:].double(), areas.sum(1)[1:].double()
    ignored = areas[0, 1:].double()
    same = target.classes[:, None] == prediction.classes
    union = of_wanted[:, None] + of_found - both - ignored
    iou = torch.where(same & ~crowd[:, None] & (both > 0), both / union, 0.0)
    match = iou > MATCH
    forgiven = ignored + (both * (same & crowd[:, None])).sum(0)
    there = of_found > 0, of_wanted > 0  # a segment without a pixel is none
    false = ~match.any(0) & there[0] & (forgiven <= FORGIVEN * of_found)
    missed = ~match.any(1) & there[1] & ~crowd
    counts = [
        labels.long().bincount(minlength=classes)
        for labels in (prediction.classes[match.any(0)], prediction.classes[false], target.classes[missed])
    ]
    sums = torch.zeros(classes, dtype=torch.float64, device=iou.device)
    sums.index_add_(0, prediction.classes.long(), (iou * match).sum(0))
    return Counts(sums, *counts)


class PanopticMetrics(Metrics):
    """Panoptic quality of images; memory is four numbers per class.

    things: (C,), whether a class has objects that are counted; the others are stuff. None: not known, so that nothing
    is measured of either alone.
    """

    def __init__(self, class_names: Sequence[str], things: Sequence[bool] | None = None):
        self.things = None if things is None else torch.tensor(list(things), dtype=torch.bool)
        super().__init__(class_names)

    def reset(self) -> None:
        super().reset()
        for name in Counts._fields:
            kind = torch.float64 if name == "iou" else torch.int64
            self.add(0, **{name: torch.zeros(len(self.class_names), dtype=kind)})

    def update(self, outputs: Iterable[Segments], targets: Iterable[Segments]) -> None:
        """Add the predicted segments and the target's segments of B images; B may be 0."""
        for prediction, target in zip(outputs, targets, strict=True):
            counts = panoptic_quality(prediction, target, len(self.class_names))
            occurs, values = _qualities(counts)
            self.add(1, **counts._asdict())
            self.keep(0, score=torch.tensor([_mean(values["pq"], occurs)], dtype=torch.float64))

    def scores(self) -> Tensor:
        """(N,) in percent: the panoptic quality of each image alone."""
        return self.kept("score") if self.images else torch.zeros(0)

    def compute(self) -> dict[str, float]:
        """pq, sq, rq of all classes, pq_things and pq_stuff, in percent; empty without images.

        Each is a mean over the classes that occur in targets or predictions; 0 if there is no such class.
        """
        if not self.images:
            return {}
        occurs, values = _qualities(self._counts())
        means = {name: _mean(value, occurs) for name, value in values.items()}
        if self.things is not None:
            means["pq_things"] = _mean(values["pq"], occurs & self.things)
            means["pq_stuff"] = _mean(values["pq"], occurs & ~self.things)
        return means

    def report(self) -> dict[str, Any]:
        """The values, images, and per_class: name, thing, pq, sq, rq (percent), matched, false and missed segments."""
        occurs, values = _qualities(self._counts())
        per_class = [
            {
                "name": self.class_names[c],
                "thing": None if self.things is None else bool(self.things[c]),
                **{name: value[c].item() for name, value in values.items()},
                **{name: int(self.added(name)[c]) for name in ("matched", "false", "missed")},
            }
            for c in occurs.nonzero()[:, 0].tolist()
        ]
        return {**super().report(), "per_class": per_class}

    def _counts(self) -> Counts:
        return Counts(*(self.added(name) for name in Counts._fields))


def _qualities(counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
    """Which classes occur, (C,), and pq, sq and rq of each class in percent."""
    iou, matched, false, missed = (count.double() for count in counts)
    size = matched + false / 2 + missed / 2
    sq = iou / matched.clamp(min=1)
    rq = matched / size.clamp(min=0.5)
    return size > 0, {"pq": 100 * sq * rq, "sq": 100 * sq, "rq": 100 * rq}


def _check(segments: Segments, classes: int) -> None:
    for name, labels, count in (("segment", segments.ids, len(segments.classes)), ("class", segments.classes, classes)):
        lowest = IGNORE if name == "segment" else 0
        if labels.numel() and not lowest <= labels.min() <= labels.max() < count:
            raise ValueError(f"{name} {labels.min().item()} or {labels.max().item()} is none of {count}")


def _mean(values: Tensor, where: Tensor) -> float:
    return values[where].mean().item() if where.any() else 0.0
