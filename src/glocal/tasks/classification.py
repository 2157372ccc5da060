"""Image classification: the loss to train on and the metrics to report."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def training_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of (B, classes) logits and (B,) labels, a part of each target spread over all classes."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


class ClassificationTotals:
    """Sums over batches, from which loss, top-1 and top-5 follow.

    With fewer than six classes, "top-5" counts a label among the first `classes`, and is 100 %.
    """

    def __init__(self):
        self.images = 0
        self.sums: Tensor | None = None  # (3,) float64: loss, top-1, top-5

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,); B may be 0."""
        if not len(labels):
            return
        logits = logits.float()
        ranked = logits.topk(min(5, logits.shape[1])).indices  # (B, 5)
        hits = ranked == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        # MPS has no float64, and the sums of a few thousand batches need it: the CPU adds them up.
        sums = torch.stack([loss, hits[:, 0].sum(), hits.sum()]).cpu().double()
        self.images += len(labels)
        self.sums = sums if self.sums is None else self.sums + sums

    def compute(self) -> dict[str, float]:
        """The mean loss, and top1 and top5 in percent, as timm reports them; empty without images."""
        if self.sums is None:
            return {}
        loss, top1, top5 = (self.sums / self.images).tolist()
        return {"loss": loss, "top1": 100 * top1, "top5": 100 * top5}


def evaluate(
    model: nn.Module, batches: Iterable, device: torch.device | str = "cpu"
) -> tuple[dict[str, float], list[int]]:
    """Measure a model in eval mode on batches of (images, labels, indices of unreadable samples).

    Returns top1 and top5 in percent, loss, images, images_per_second (reading included), and the unreadable indices.
    """
    model = model.to(device, memory_format=torch.channels_last).eval()
    totals, unread = ClassificationTotals(), []
    start = time.perf_counter()
    with torch.inference_mode():
        for images, labels, missing in batches:
            unread.extend(missing)
            if len(labels):
                images = images.to(device, memory_format=torch.channels_last)
                totals.update(model(images), labels.to(device))
    seconds = time.perf_counter() - start
    return {**totals.compute(), "images": totals.images, "images_per_second": totals.images / seconds}, unread
