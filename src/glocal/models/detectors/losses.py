"""Losses of detectors: sums over boxes, divided by a number that the caller counts.

`count` is always that number; 2⁻²³ is added to it, as in the authors' code, so that it may be 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

EPS = torch.finfo(torch.float32).eps


def averaged(total: Tensor, count: Tensor | float) -> Tensor:
    """A sum over boxes, divided by their number."""
    return total / (count + EPS)


def focal_loss(logits: Tensor, labels: Tensor, count: Tensor | float) -> Tensor:
    """Focal loss of independent classes, with α = 0.25 and γ = 2 (arXiv 1708.02002): a scalar.

    logits: (N, K). labels: (N,), 0 to K; K is background, which has no class.
    """
    classes = logits.shape[1]
    targets = logits.new_zeros(len(labels), classes + 1).scatter_(1, labels[:, None], 1)[:, :classes]
    return averaged(sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2, reduction="sum"), count)


def l1_loss(codes: Tensor, targets: Tensor, count: Tensor | float) -> Tensor:
    """Σ |difference| over (N, 4) codes, averaged: a scalar."""
    return averaged((codes - targets).abs().sum(), count)


def smooth_l1_loss(codes: Tensor, targets: Tensor, count: Tensor | float, beta: float) -> Tensor:
    """As `l1_loss`, but a difference d below β counts as d² / 2β, and above as d − β / 2."""
    return averaged(F.smooth_l1_loss(codes, targets, reduction="sum", beta=beta), count)


def cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | float) -> Tensor:
    """Cross-entropy of (N, K) logits with labels (N,), averaged: a scalar."""
    return averaged(F.cross_entropy(logits, labels, reduction="sum"), count)


def binary_cross_entropy(logits: Tensor, targets: Tensor, count: Tensor | float) -> Tensor:
    """Cross-entropy of independent logits (…) with targets 0 to 1 (…), averaged: a scalar."""
    return averaged(F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum"), count)
