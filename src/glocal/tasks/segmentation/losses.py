"""Losses on label maps."""

import torch.nn.functional as F
from torch import Tensor

from glocal.data.masks import IGNORE
from glocal.models.heads.resize import resize_to


def pixel_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits (B, C, h, w), resized to the labels (B, H, W), divided by all pixels of the batch.

    Pixels with the label IGNORE add nothing to the sum, but count in the divisor, as in the authors' trainings.
    weight: (C,), of the classes.
    """
    total = F.cross_entropy(resize_to(logits, labels.shape[1:]), labels, weight, ignore_index=IGNORE, reduction="sum")
    return total / labels.numel()
