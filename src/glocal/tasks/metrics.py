"""What a measurement reports: accuracy in all and per class, confusions, calibration, average precision."""

import torch
from torch import Tensor
from torch.nn import functional as F

from glocal.errors import InvalidValueError
from glocal.tasks.classification import ClassificationTotals, average_precisions

CALIBRATION_BINS = 15


class SingleLabelMetrics:
    """Metrics of images that show one class each; memory grows by three numbers per image."""

    def __init__(self):
        self.totals = ClassificationTotals()
        self.labels: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.confidences: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,), none of them below 0; B may be 0."""
        if not len(labels):
            return
        self.totals.update(logits, labels)
        confidences, predictions = logits.float().softmax(-1).max(-1)
        self.labels.append(labels.cpu())
        self.predictions.append(predictions.cpu())
        self.confidences.append(confidences.cpu())

    @property
    def images(self) -> int:
        return self.totals.images

    def compute(self, class_names: list[str]) -> dict:
        """top1, top5 (percent), loss, images, ece (percent), calibration, per_class and confusion.

        calibration: see `calibration`. per_class: name, images and accuracy (percent) of the classes that occur.
        confusion: [label, prediction, images] for every pair that occurs, as indices into `class_names`.
        """
        labels, predictions, confidences = map(torch.cat, (self.labels, self.predictions, self.confidences))
        correct = labels == predictions
        ece, bins = calibration(confidences, correct)
        counts = labels.bincount(minlength=len(class_names)).tolist()
        hits = labels[correct].bincount(minlength=len(class_names)).tolist()
        per_class = [
            {"name": class_names[label], "images": counts[label], "accuracy": 100 * hits[label] / counts[label]}
            for label in range(len(counts))
            if counts[label]
        ]
        pairs, images = torch.stack([labels, predictions], 1).unique(dim=0, return_counts=True)
        return {
            **self.totals.compute(),
            "images": self.images,
            "ece": ece,
            "calibration": bins,
            "per_class": per_class,
            "confusion": torch.cat([pairs, images[:, None]], 1).tolist(),
        }


class AcceptedLabelsMetrics:
    """Metrics of images for which any of several classes is right (ReaL, Beyer et al., arXiv 2006.07159)."""

    def __init__(self):
        self.images = 0
        self.top1: list[Tensor] = []
        self.top5: list[Tensor] = []
        self.confidences: list[Tensor] = []

    def update(self, logits: Tensor, accepted: Tensor) -> None:
        """Add a batch: logits (B, classes), accepted (B, classes) bool; B may be 0."""
        self.images += len(logits)
        confidences, ranked = logits.float().softmax(-1).topk(min(5, logits.shape[1]))  # (B, 5)
        hits = accepted.gather(1, ranked)
        self.top1.append(hits[:, 0].cpu())
        self.top5.append(hits.any(1).cpu())
        self.confidences.append(confidences[:, 0].cpu())

    def compute(self, class_names: list[str]) -> dict:
        """top1, top5, ece (percent), calibration and images."""
        top1 = torch.cat(self.top1)
        ece, bins = calibration(torch.cat(self.confidences), top1)
        return {
            "top1": 100 * top1.double().mean().item(),
            "top5": 100 * torch.cat(self.top5).double().mean().item(),
            "images": self.images,
            "ece": ece,
            "calibration": bins,
        }


class MultiLabelMetrics:
    """Metrics of images that show any number of classes; memory grows by two numbers per image and class."""

    def __init__(self):
        self.images = 0
        self.logits: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, classes), targets (B, classes) of zeros and ones; B may be 0."""
        self.images += len(logits)
        self.logits.append(logits.float().cpu())
        self.targets.append(targets.float().cpu())

    def compute(self, class_names: list[str]) -> dict:
        """map (percent), loss (mean binary cross-entropy), images and per_class.

        per_class: name, images that show it, average precision (percent) of the classes that occur, whose mean is map.
        """
        logits, targets = torch.cat(self.logits), torch.cat(self.targets)
        per_class = [
            {"name": class_names[label], "images": int(targets[:, label].sum()), "average_precision": precision}
            for label, precision in average_precisions(logits, targets).items()
        ]
        if not per_class:
            raise InvalidValueError("none of the images has a label, so that there is no average precision")
        return {
            "map": sum(one["average_precision"] for one in per_class) / len(per_class),
            "loss": F.binary_cross_entropy_with_logits(logits, targets).item(),
            "images": self.images,
            "per_class": per_class,
        }


def calibration(
    confidences: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS
) -> tuple[float, list[dict[str, float | int | None]]]:
    """Expected calibration error in percent, and the reliability diagram, of the most probable class.

    ECE = Σ_b n_b/N · |accuracy_b − confidence_b| over bins (low, high] of equal width (Guo et al., arXiv 1706.04599).
    confidences (N,) in 0…1, correct (N,) bool. A bin: low, high, images, and mean confidence and accuracy, None where
    it is empty.
    """
    confidences, correct = confidences.double(), correct.double()
    edges = torch.linspace(0, 1, bins + 1)  # in float32, as the confidences are: they are compared with them
    place = torch.bucketize(confidences.float(), edges[1:-1])
    counts = place.bincount(minlength=bins)
    confidence = place.bincount(confidences, minlength=bins) / counts
    accuracy = place.bincount(correct, minlength=bins) / counts
    filled = counts > 0
    gaps = (accuracy - confidence).abs()[filled]
    ece = 100 * (counts[filled] * gaps).sum().item() / len(confidences)
    diagram = [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "images": int(counts[b]),
            "confidence": confidence[b].item() if filled[b] else None,
            "accuracy": accuracy[b].item() if filled[b] else None,
        }
        for b in range(bins)
    ]
    return ece, diagram
