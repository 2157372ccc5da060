"""Boxes (cx, cy, w, h) relative to the image, as logits and as corners in pixels."""

import torch
from torch import Tensor


def logit(share: Tensor, eps: float) -> Tensor:
    """The inverse of the sigmoid for numbers of 0 to 1, both included: p and 1 − p count as at least `eps`."""
    return (share.clamp(min=eps) / (1 - share).clamp(min=eps)).log()


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) → (x1, y1, x2, y2), (…, 4)."""
    centre, halves = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - halves, centre + halves), -1)


def from_corners(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) → (cx, cy, w, h), (…, 4)."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((first + last) / 2, last - first), -1)


def scale_of(sizes: Tensor, like: Tensor) -> Tensor:
    """(width, height, width, height) of sizes (…, 2), (height, width), in the type of `like`."""
    return sizes.flip(-1).repeat(*(1,) * (sizes.ndim - 1), 2).to(like)
