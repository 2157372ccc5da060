"""Stems (stride 4) and down-sampling layers (stride 2); an odd size always becomes ceil(size / 2)."""

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from glocal.layers.conv import convolve, pointwise
from glocal.layers.fusion import absorb_norm
from glocal.layers.norm import BatchNorm2d, LayerNorm2d
from glocal.ops import pad_to_even


class OverlapPatchEmbed(nn.Module):
    """k×k convolution with overlapping patches, then a norm: the stem (k 7, stride 4) or a down-sampling (3, 2)."""

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel_size: int = 3,
        stride: int = 2,
        norm: Callable[[int], nn.Module] = BatchNorm2d,
        bias: bool = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, stride, kernel_size // 2, bias=bias)
        self.norm = norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def reparameterize(self):
        self.norm = absorb_norm(self.conv, self.norm)


class ConvStem(nn.Module):
    """Two 3×3 stride-2 convolutions with 16 channels between them (HAT-Net, TransCNN)."""

    def __init__(self, in_dim: int, dim: int, norm: Callable[[int], nn.Module], hidden_dim: int = 16):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, hidden_dim, 3, 2, 1)
        self.norm = norm(hidden_dim)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(hidden_dim, dim, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm(self.conv1(x))))

    def reparameterize(self):
        self.norm = absorb_norm(self.conv1, self.norm)


class FineConvStem(nn.Module):
    """Conv2Former's stem: 3×3 stride 2 and 3×3 at half the width, GELU before each norm, then 2×2 stride 2."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim // 2, 3, 2, 1, bias=False)
        self.norm1 = BatchNorm2d(dim // 2)
        self.conv2 = nn.Conv2d(dim // 2, dim // 2, 3, 1, 1, bias=False)
        self.norm2 = BatchNorm2d(dim // 2)
        self.conv3 = nn.Conv2d(dim // 2, dim, 2, 2, bias=False)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.act(self.conv1(x)))
        x = self.norm2(self.act(self.conv2(x)))
        return self.conv3(pad_to_even(x))


class NormConvDownsample(nn.Module):
    """LayerNorm over C, then a 2×2 convolution with stride 2 (Conv2Former)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.norm = LayerNorm2d(in_dim)
        self.conv = nn.Conv2d(in_dim, dim, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad_to_even(self.norm(x)))


class TwoBranchDownsample(nn.Module):
    """TDB: SiLU of a strided 3×3 convolution plus a max-pooled 1×1 convolution, each with a BN (TransCNN)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 3, 2, 1)
        self.norm1 = BatchNorm2d(dim)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.residual = pointwise(in_dim, dim)
        self.norm2 = BatchNorm2d(dim)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        y = self.residual(y) if torch.jit.is_scripting() else convolve(self.residual, y)
        return self.act(self.norm1(self.conv(x)) + self.norm2(y))

    def reparameterize(self):
        self.norm1 = absorb_norm(self.conv, self.norm1)
        self.norm2 = absorb_norm(self.residual, self.norm2)
