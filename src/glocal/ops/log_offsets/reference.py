"""Pure-PyTorch log-spaced offsets."""

import torch
from torch import Tensor


def log_offsets(size: int, pooled: int, unit: float, like: Tensor) -> tuple[Tensor, Tensor]:
    halved = size % pooled == 0  # equal windows: all doubled offsets have the same parity
    reach = 2 * size - 1 - size // pooled if halved else 2 * size - 2
    return spaced(size, pooled, unit, like, reach, 2 if halved else 1)


def spaced(size: int, pooled: int, unit: float, like: Tensor, reach: int, step: int) -> tuple[Tensor, Tensor]:
    """The offsets −reach, −reach + step, …, reach in units of half a position, log-spaced, and each pair's index."""
    key = torch.arange(pooled, device=like.device)
    start, end = key * size // pooled, ((key + 1) * size + pooled - 1) // pooled
    doubled = 2 * torch.arange(size, device=like.device).unsqueeze(1) - (start + end - 1)  # 2·(query − key)
    index = torch.div(doubled + reach, step, rounding_mode="floor").flatten()
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    offset = torch.arange(-reach, reach + 1, step, device=like.device, dtype=dtype) * (0.5 * unit)
    length = torch.maximum(offset, -offset)  # OpenVINO's abs overwrites numbers that it knows before it runs
    offset = offset.sign() * (length + 1).log2() / 3.0  # log2 8
    return offset.to(like.dtype), index
