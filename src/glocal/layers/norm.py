"""Norms of (B, C, H, W) maps."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.graph import leaf
from glocal.ops import channel_norm, sample_norm


@leaf
class LayerNorm2d(nn.Module):
    """LayerNorm over C at each position of (B, C, H, W)."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return channel_norm(x, self.weight, self.bias, self.eps)


@leaf
class GroupNorm1(nn.GroupNorm):
    """GroupNorm with one group: normalises each sample over C, H and W together."""

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__(1, dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return sample_norm(x, self.weight, self.bias, self.eps)


@leaf
class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that also trains on a single value per channel (one image, a 1×1 map).

    One value has no variance, and PyTorch raises; here it is normalised by the running statistics, which stay as they
    are. Everything else is PyTorch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        use_batch = self.running_mean is None or (self.training and x.numel() != x.shape[1])
        momentum = 0.0
        if use_batch and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            # Without a momentum PyTorch keeps the plain average of all batches.
            momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, use_batch, momentum, self.eps
        )
