"""Depthwise convolution with per-sample kernels for exported graphs that take batches of any size.

There the number of groups of the reference's convolution is a symbol, which runtimes do not know.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve (B, C, H, W) with (B, C, k, k) as matrix products: rows moved against each other, bands along the width.

    The product has W / k times the multiplications of a convolution, and no operation that a runtime does slowly.
    """
    batch, channels, height, width = x.shape
    k = weight.shape[-1]
    reach = dilation * (k // 2)
    column = torch.arange(width, device=x.device)
    offset = column.unsqueeze(1) - column + reach  # of an input column from the first that an output column meets
    inside = (offset >= 0) & (offset <= 2 * reach)
    if dilation > 1:
        inside = inside & (offset - offset // dilation * dilation == 0)
    tap = (offset // dilation).clamp(0, k - 1).flatten()
    band = weight.index_select(3, tap).reshape(batch, channels, k, width, width) * inside.to(x.dtype)
    padded = F.pad(x, [0, 0, reach, reach])
    rows = torch.cat([padded[:, :, dilation * i : dilation * i + height] for i in range(k)], dim=3)  # (B, C, H, k·W)
    return rows @ band.reshape(batch, channels, k * width, width)
