"""Losses of detectors: sums over boxes, divided by a number that the caller counts.

`count` is always that number; 2⁻²³ is added to it, as in the authors' code, so that it may be 0. `weights`, (K,), say
how much boxes of each class count, by the class that they should have; background counts 1. All ones give the same bits
as None.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

EPS = torch.finfo(torch.float32).eps


def averaged(total: Tensor, count: Tensor | float) -> Tensor:
    """A sum over boxes, divided by their number."""
    return total / (count + EPS)


def focal_loss(logits: Tensor, labels: Tensor, count: Tensor | float, weights: Tensor | None = None) -> Tensor:
    """Focal loss of independent classes, with α = 0.25 and γ = 2 (arXiv 1708.02002): a scalar.

    logits: (N, K). labels: (N,), 0 to K; K is background, which has no class.
    """
    classes = logits.shape[1]
    targets = logits.new_zeros(len(labels), classes + 1).scatter_(1, labels[:, None], 1)[:, :classes]
    losses = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2)
    if weights is not None:
        losses = losses * with_background(weights, logits)[labels, None]
    return averaged(losses.sum(), count)


def l1_loss(codes: Tensor, targets: Tensor, count: Tensor | float) -> Tensor:
    """Σ |difference| over (N, 4) codes, averaged: a scalar."""
    return averaged((codes - targets).abs().sum(), count)


def smooth_l1_loss(codes: Tensor, targets: Tensor, count: Tensor | float, beta: float) -> Tensor:
    """As `l1_loss`, but a difference d below β counts as d² / 2β, and above as d − β / 2."""
    return averaged(F.smooth_l1_loss(codes, targets, reduction="sum", beta=beta), count)


def cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | float, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of (N, K + 1) logits with labels (N,), of which K is background, averaged: a scalar."""
    weights = None if weights is None else with_background(weights, logits)
    return averaged(F.cross_entropy(logits, labels, weights, reduction="sum"), count)


def with_background(weights: Tensor, like: Tensor) -> Tensor:
    """(K + 1,) weights of the classes (K,) and of background, in the type and on the device of a tensor."""
    return F.pad(weights.to(like), (0, 1), value=1.0)


def binary_cross_entropy(logits: Tensor, targets: Tensor, count: Tensor | float) -> Tensor:
    """Cross-entropy of independent logits (…) with targets 0 to 1 (…), averaged: a scalar."""
    return averaged(F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum"), count)
