"""Average pooling for exported graphs, as matrix products: ONNX's pooling is wrong for sizes that are not known."""

import torch
from torch import Tensor


def adaptive_average_pool(x: Tensor, rows: int, columns: int) -> Tensor:
    return averaged(x, averages(x.shape[-2], rows), averages(x.shape[-1], columns))


def averaged(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, rows, columns): means by `down`, (rows, H), and by `across`, (columns, W)."""
    return down.to(x) @ (x @ across.to(x).transpose(0, 1))


def averages(length: int, parts: int) -> Tensor:
    """(parts, length): part i is the mean of positions ⌊i·length/parts⌋ to ⌈(i + 1)·length/parts⌉ − 1."""
    position, part = torch.arange(length, device="cpu"), torch.arange(parts, device="cpu").unsqueeze(1)
    first, end = part * length // parts, ((part + 1) * length + parts - 1) // parts
    return ((position >= first) & (position < end)) / (end - first).double()
