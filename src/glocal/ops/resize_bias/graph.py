"""Bicubic resize for exported graphs, which take other sizes too: runtimes differ in what they call bicubic."""

import torch
from torch import Tensor


def resize_bias(bias: Tensor, queries: int, keys: int) -> Tensor:
    return resample(resample(bias, 2, queries), 3, keys)


def resample(x: Tensor, dim: int, size: int) -> Tensor:
    """Bicubic resize (a = −0.75, half-pixel centres) of one axis, as a sum of four gathers."""
    length = x.shape[dim]
    whole = torch.full([], size, device=x.device, dtype=x.dtype)  # runtimes divide tensors, not symbols
    place = (torch.arange(size, device=x.device, dtype=x.dtype) + 0.5) * length / whole - 0.5
    first = place.floor()
    total = torch.zeros(1, device=x.device, dtype=x.dtype)
    shape = [size if axis == dim else 1 for axis in range(x.ndim)]
    for tap in range(-1, 3):
        difference = place - first - tap
        distance = torch.maximum(difference, -difference)  # OpenVINO's abs overwrites numbers that it knows
        if tap in (0, 1):
            weight = (1.25 * distance - 2.25) * distance * distance + 1
        else:
            weight = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        index = (first + tap).clamp(0, length - 1).to(torch.int64)
        total = total + x.index_select(dim, index) * weight.view(shape)
    return total
