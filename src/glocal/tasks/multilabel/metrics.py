"""Average precision of multi-label classification."""

import torch
from torch import Tensor
from torch.nn import functional as F

from glocal.errors import InvalidValueError
from glocal.tasks.metrics import Metrics


class MultilabelMetrics(Metrics):
    """Metrics of images with any number of labels; memory grows by two numbers per image and class."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs are logits (B, classes), targets (B, classes) of zeros and ones; B may be 0."""
        self.keep(logits=outputs.float(), targets=targets.float())

    def compute(self) -> dict[str, float]:
        """The mean binary cross-entropy, and map in percent (macro over the classes that occur); empty without images.

        With no label at all, map is 0.
        """
        if not self.images:
            return {}
        logits, targets = self.kept("logits"), self.kept("targets")
        precisions = average_precisions(logits, targets).values()
        loss = F.binary_cross_entropy_with_logits(logits, targets).item()
        return {"loss": loss, "map": sum(precisions) / max(1, len(precisions))}

    def report(self) -> dict:
        """map, loss, images and per_class; ValueError if no image has a label.

        per_class: name, images and average precision (percent) of each class that occurs; map is their mean.
        """
        logits, targets = self.kept("logits"), self.kept("targets")
        per_class = [
            {"name": self.class_names[label], "images": int(targets[:, label].sum()), "average_precision": precision}
            for label, precision in average_precisions(logits, targets).items()
        ]
        if not per_class:
            raise InvalidValueError("none of the images has a label, so that there is no average precision")
        return {**super().report(), "per_class": per_class}

    def scores(self) -> Tensor:
        """(N,): the negative binary cross-entropy of each image, the mean over the classes."""
        if not self.images:
            return torch.zeros(0)
        logits, targets = self.kept("logits").double(), self.kept("targets").double()
        return -F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


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
