"""LayerScale."""

import torch
import torch.nn as nn
from torch import Tensor


class LayerScale(nn.Module):
    """Multiply each channel of (B, C, H, W) by a learned weight, optionally adding a learned bias (TransXNet)."""

    def __init__(self, dim: int, init: float, bias: bool = False):
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(dim, 1, 1))
        self.bias = nn.Parameter(torch.empty(dim, 1, 1)) if bias else None
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.constant_(self.weight, self.init)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x * self.weight
        return torch.addcmul(self.bias, x, self.weight)
