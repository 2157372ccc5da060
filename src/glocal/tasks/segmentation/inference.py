"""How a model sees an image that is measured: whole, by sliding windows, or at several scales and flipped."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glocal.models.dense import DenseModel
from glocal.models.heads.resize import resize_to


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows of an axis start: the last is shifted back to the edge; a short axis has one window."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]


def sliding_logits(
    logits: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """The mean logits of all windows at each pixel, (B, C, H, W).

    logits: images (B, 3, h, w) to logits of any size, which are resized to the window. images: (B, 3, H, W).
    """
    height, width = images.shape[2:]
    total, count = None, images.new_zeros(1, 1, height, width)
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            part = images[place]
            found = resize_to(logits(part), part.shape[2:])
            if total is None:
                total = found.new_zeros(len(images), found.shape[1], height, width)
            total[place] += found
            count[place] += 1
    return total / count


def whole_logits(logits: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The logits of whole images at their size, (B, C, H, W)."""
    return resize_to(logits(images), images.shape[2:])


def mean_probabilities(
    scores: Callable[[Tensor], Tensor], scales: Sequence[Tensor], size: tuple[int, int], flip: bool = True
) -> Tensor:
    """The mean of the probabilities at a size over several scales of the same images, (B, C, H, W).

    scores: images to logits at their size. scales: (B, 3, h, w), each of another size. flip: add the flipped images.
    """
    found = []
    for images in scales:
        found.append(DenseModel.decode(scores(images), size))
        if flip:
            found.append(DenseModel.decode(scores(images.flip(3)), size).flip(3))
    return torch.stack(found).mean(0)
