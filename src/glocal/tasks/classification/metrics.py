"""Accuracy, accuracy per class, confusions and calibration of classification."""

import torch
from torch import Tensor
from torch.nn import functional as F

from glocal.tasks.metrics import Metrics

CALIBRATION_BINS = 15


class ClassificationMetrics(Metrics):
    """Metrics of images with a label each; memory grows by five numbers per image.

    With fewer than six classes, "top-5" counts a label among the first `classes`, and is 100 %.
    """

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs are logits (B, classes), targets labels (B,); B may be 0."""
        if not len(targets):
            return
        logits = outputs.float()
        confidences, ranked = logits.softmax(-1).topk(min(5, logits.shape[1]))  # (B, 5)
        self.keep(
            loss=F.cross_entropy(logits, targets, reduction="none"),
            label=targets,
            prediction=ranked[:, 0],
            among_first=(ranked == targets[:, None]).any(1),
            confidence=confidences[:, 0],
        )

    def compute(self) -> dict[str, float]:
        """The mean loss, and top1 and top5 in percent as timm reports them; empty without images."""
        if not self.images:
            return {}
        sums = (self.kept("loss"), self._correct(), self.kept("among_first"))
        loss, top1, top5 = (values.double().sum().item() / self.images for values in sums)
        return {"loss": loss, "top1": 100 * top1, "top5": 100 * top5}

    def report(self) -> dict:
        """top1, top5 (percent), loss, images, ece (percent), calibration, per_class and confusion.

        calibration: see `calibration`. per_class: name, images and accuracy (percent) of the classes that occur.
        confusion: [label, prediction, images] for every pair that occurs, as indices into `class_names`.
        """
        labels, predictions, correct = self.kept("label"), self.kept("prediction"), self._correct()
        ece, bins = calibration(self.kept("confidence"), correct)
        counts = labels.bincount(minlength=len(self.class_names)).tolist()
        hits = labels[correct].bincount(minlength=len(self.class_names)).tolist()
        per_class = [
            {"name": self.class_names[label], "images": counts[label], "accuracy": 100 * hits[label] / counts[label]}
            for label in range(len(counts))
            if counts[label]
        ]
        pairs, images = torch.stack([labels, predictions], 1).unique(dim=0, return_counts=True)
        return {
            **super().report(),
            "ece": ece,
            "calibration": bins,
            "per_class": per_class,
            "class_names": list(self.class_names),
            "confusion": torch.cat([pairs, images[:, None]], 1).tolist(),
        }

    def scores(self) -> Tensor:
        """(N,) in percent: the probability of each image's label, float64."""
        return 100 * (-self.kept("loss").double()).exp() if self.images else torch.zeros(0)

    def _correct(self) -> Tensor:
        return self.kept("label") == self.kept("prediction")


class AcceptedLabelsMetrics(Metrics):
    """Metrics of images with several accepted classes (ReaL, Beyer et al., arXiv 2006.07159)."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, classes), and whether each class is accepted (B, classes); B may be 0."""
        confidences, ranked = outputs.float().softmax(-1).topk(min(5, outputs.shape[1]))  # (B, 5)
        hits = targets.gather(1, ranked)
        self.keep(first=hits[:, 0], among_first=hits.any(1), confidence=confidences[:, 0])

    def compute(self) -> dict[str, float]:
        """top1 and top5 in percent; empty without images."""
        if not self.images:
            return {}
        return {
            "top1": 100 * self.kept("first").double().mean().item(),
            "top5": 100 * self.kept("among_first").double().mean().item(),
        }

    def report(self) -> dict:
        """top1, top5, ece (percent), calibration and images."""
        ece, bins = calibration(self.kept("confidence"), self.kept("first"))
        return {**super().report(), "ece": ece, "calibration": bins}


def calibration(
    confidences: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS
) -> tuple[float, list[dict[str, float | int | None]]]:
    """Expected calibration error in percent, and reliability diagram, of the most probable class.

    ECE = Σ_b n_b/N · |accuracy_b − confidence_b| over bins (low, high] of equal width (Guo et al., arXiv 1706.04599).
    confidences (N,) in 0…1, correct (N,) bool. A bin: low, high, images, and mean confidence and accuracy, None where
    it is empty.
    """
    confidences, correct = confidences.double(), correct.double()
    edges = torch.linspace(0, 1, bins + 1)  # in float32, because they are compared with confidences in float32
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
