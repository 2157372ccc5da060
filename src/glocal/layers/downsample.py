"""Stems (stride 4) and down-sampling layers (stride 2); an odd size always becomes ceil(size / 2)."""

from collections.abc import Callable

import torch.nn as nn
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor

from glocal.layers.conv import PointwiseConv2d
from glocal.layers.fusion import absorb_norm
from glocal.layers.norm import BatchNorm2d, LayerNorm2d
from glocal.ops.dispatch import exporting


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


@register_notrace_module
class EvenConv2d(nn.Conv2d):
    """2×2 convolution with stride 2 that zero-pads an odd size at the right and bottom, so that none of it is lost."""

    def __init__(self, in_dim: int, dim: int, bias: bool = True):
        super().__init__(in_dim, dim, 2, 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if exporting():
            return F.conv2d(F.pad(x, [0, 1, 0, 1]), self.weight, self.bias, self.stride)  # an even size drops it again
        pad_bottom, pad_right = x.shape[-2] % 2, x.shape[-1] % 2
        if pad_bottom > 0 or pad_right > 0:
            x = F.pad(x, [0, pad_right, 0, pad_bottom])
        return F.conv2d(x, self.weight, self.bias, self.stride)


class FineConvStem(nn.Module):
    """Conv2Former's stem: 3×3 stride 2 and 3×3 at half the width, GELU before each norm, then 2×2 stride 2."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim // 2, 3, 2, 1, bias=False)
        self.norm1 = BatchNorm2d(dim // 2)
        self.conv2 = nn.Conv2d(dim // 2, dim // 2, 3, 1, 1, bias=False)
        self.norm2 = BatchNorm2d(dim // 2)
        self.conv3 = EvenConv2d(dim // 2, dim, bias=False)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.act(self.conv1(x)))
        x = self.norm2(self.act(self.conv2(x)))
        return self.conv3(x)


class NormConvDownsample(nn.Module):
    """LayerNorm over C, then a 2×2 convolution with stride 2 (Conv2Former)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.norm = LayerNorm2d(in_dim)
        self.conv = EvenConv2d(in_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class TwoBranchDownsample(nn.Module):
    """TDB: SiLU of a strided 3×3 convolution plus a max-pooled 1×1 convolution, each with a BN (TransCNN)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 3, 2, 1)
        self.norm1 = BatchNorm2d(dim)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.residual = PointwiseConv2d(in_dim, dim)
        self.norm2 = BatchNorm2d(dim)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm1(self.conv(x)) + self.norm2(self.residual(self.pool(x))))

    def reparameterize(self):
        self.norm1 = absorb_norm(self.conv, self.norm1)
        self.norm2 = absorb_norm(self.residual, self.norm2)
