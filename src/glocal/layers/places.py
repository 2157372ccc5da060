"""Where the positions of maps are, and codes that say it."""

import torch
from torch import Tensor


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C), row by row."""
    return x.flatten(2).transpose(1, 2)


def extent(height: int, width: int, like: Tensor) -> Tensor:
    """(width, height) as a tensor (2,) of the dtype of `like`; in graphs for any size, runtimes divide by tensors."""
    last = [torch.arange(1, side + 1, device=like.device)[-1] for side in (width, height)]
    return torch.stack(last).to(like.dtype)


def cells(height: int, width: int, like: Tensor) -> Tensor:
    """The (x, y) of the centres of a map's positions in cells, row by row, (1, H·W, 2): the first is at (½, ½)."""
    y = torch.arange(height, device=like.device, dtype=like.dtype) + 0.5
    x = torch.arange(width, device=like.device, dtype=like.dtype) + 0.5
    return torch.stack((x.expand(height, width), y.unsqueeze(1).expand(height, width)), -1).reshape(1, -1, 2)


def centres(height: int, width: int, like: Tensor) -> Tensor:
    """The same in units of the map's sides: 0 and 1 are its borders."""
    return cells(height, width, like) / extent(height, width, like)


def sine_features(angle: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines in turns of an angle divided by growing periods, (…) → (…, dim), at least in float32.

    Channels 2i and 2i + 1 have the period temperature^(2i / dim). Source: arXiv 1706.03762, section 3.5.
    """
    dtype = torch.promote_types(angle.dtype, torch.float32)
    index = torch.arange(dim, device=angle.device, dtype=dtype)
    period = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / dim)
    phase = angle.to(dtype).unsqueeze(-1) / period
    return torch.stack((phase[..., 0::2].sin(), phase[..., 1::2].cos()), -1).flatten(-2)
