"""Average pooling to a given size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops.dispatch import exporting, takes_cpu


def adaptive_average_pool(x: Tensor, rows: int, columns: int) -> Tensor:
    """F.adaptive_avg_pool2d of (B, C, H, W) to (B, C, rows, columns).

    On a CPU torch's gradient takes many times as long as its result: where one is needed, this is a matrix product. In
    an exported graph it is two.
    """
    if not torch.jit.is_scripting():
        if exporting():  # ONNX's pooling is wrong for sizes that are not known
            return _averaged(x, _averages(x.shape[-2], rows), _averages(x.shape[-1], columns))
        if takes_cpu(x) and torch.is_grad_enabled() and x.requires_grad and x.shape[-2] * x.shape[-1] <= 28 * 28:
            batch, channels, height, width = x.shape
            weight = torch.kron(_averages(height, rows), _averages(width, columns)).to(x.dtype)
            with torch.autocast("cpu", enabled=False):  # as torch's
                x = weight @ x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
            return x.view(batch, rows, columns, channels).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(x, [rows, columns])


def cells_and_mean(x: Tensor, side: int) -> Tensor:
    """`adaptive_average_pool` to (B, C, side, side) and one more row and column, whose corner is the map's mean."""
    down, across = (torch.cat([_averages(length, side), _averages(length, 1)]) for length in x.shape[-2:])
    return _averaged(x, down, across)


def pooled_side(side: int, reduction: int) -> int:
    """⌊side / reduction⌋, but at least 1."""
    pooled = side // reduction
    return pooled if pooled > 0 else 1  # not max: runtimes know none of symbols


def _averaged(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    return down.to(x) @ (x @ across.to(x).transpose(0, 1))


def _averages(length: int, parts: int) -> Tensor:
    """(parts, length): part i is the mean of positions ⌊i·length/parts⌋ to ⌈(i + 1)·length/parts⌉ − 1."""
    position, part = torch.arange(length, device="cpu"), torch.arange(parts, device="cpu").unsqueeze(1)
    first, end = part * length // parts, ((part + 1) * length + parts - 1) // parts
    return ((position >= first) & (position < end)) / (end - first).double()
