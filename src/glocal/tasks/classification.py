"""Image classification: the metrics to report."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


class ClassificationTotals:
    """Sums over batches, from which loss, top-1 and top-5 follow.

    With fewer than six classes, "top-5" counts a label among the first `classes`, and is 100 %.
    """

    best = "top1"  # of the figures, the one to choose a model by

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64)  # images, loss, top-1, top-5

    @property
    def images(self) -> int:
        return int(self.sums[0])

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,); B may be 0."""
        if not len(labels):
            return
        logits = logits.float()
        ranked = logits.topk(min(5, logits.shape[1])).indices  # (B, 5)
        hits = ranked == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        # MPS has no float64, and the sums of a few thousand batches need it: the CPU adds them up.
        self.sums[0] += len(labels)
        self.sums[1:] += torch.stack([loss, hits[:, 0].sum(), hits.sum()]).cpu().double()

    def compute(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """The mean loss, and top1 and top5 in percent, as timm reports them; empty without images.

        reduce: adds up a tensor over devices.
        """
        images, *sums = reduce(self.sums).tolist()
        if not images:
            return {}
        loss, top1, top5 = (value / images for value in sums)
        return {"loss": loss, "top1": 100 * top1, "top5": 100 * top5}


class MultiLabelTotals:
    """The same for several labels per image: mean binary cross-entropy and mAP (macro over the classes that occur)."""

    best = "map"

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B, classes) of zeros and ones."""
        self.logits.append(logits.float().cpu())
        self.labels.append(labels.cpu())

    def compute(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """loss, and map in percent; empty without images. With several devices, gathers what all of them saw."""
        logits, labels = (torch.cat(part) if part else torch.zeros(0, 0) for part in (self.logits, self.labels))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (logits, labels))
            logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        if not len(labels):
            return {}
        loss = F.binary_cross_entropy_with_logits(logits, labels).item()
        precision = average_precisions(logits, labels).values()
        return {"loss": loss, "map": sum(precision) / max(1, len(precision))}


def average_precisions(scores: Tensor, labels: Tensor) -> dict[int, float]:
    """Average precision in percent of each class that occurs: scores (N, classes), labels (N, classes)."""
    present = labels.any(0).nonzero()[:, 0].tolist()
    return {label: 100 * average_precision(scores[:, label], labels[:, label]) for label in present}


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Area under the precision-recall curve as a sum of steps: scores (N,), labels (N,) of zeros and ones.

    Equal scores are one step.
    """
    order = scores.argsort(descending=True)
    scores, hits = scores[order], labels[order].double().cumsum(0)
    last = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])  # of its group of equal scores
    hits, counts = hits[last], torch.arange(1, len(scores) + 1)[last]
    gained = torch.diff(hits, prepend=hits.new_zeros(1))
    return ((gained * hits / counts).sum() / labels.sum()).item()
