"""Inverted residual block (HAT-Net and TransCNN, arXiv 2106.03180)."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d, PointwiseConv2d
from glocal.layers.fusion import absorb_norm


@register_notrace_module
class SiLU(nn.SiLU):
    """SiLU in the place of its input, where no gradient needs that; for inputs that no other layer takes.

    What a hook has kept of the layer before is then overwritten.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


class InvertedResidual(nn.Module):
    """IRB without its residual: pw → SiLU → depthwise k×k → SiLU → pw → norm, all convolutions without bias.

    Args:
        norm: built as `norm(dim)`, after the last convolution.
        inner_norm: also after each of the first two (TransCNN); None for none (HAT-Net).
    """

    def __init__(
        self,
        dim: int,
        norm: Callable[[int], nn.Module],
        expansion: float = 4.0,
        kernel_size: int = 3,
        inner_norm: Callable[[int], nn.Module] | None = None,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        hidden = int(dim * expansion)
        self.expand = PointwiseConv2d(dim, hidden, bias=False)
        self.norm1 = inner_norm(hidden) if inner_norm is not None else nn.Identity()
        self.conv = DepthwiseConv2d(hidden, kernel_size, bias=False)
        self.norm2 = inner_norm(hidden) if inner_norm is not None else nn.Identity()
        self.project = PointwiseConv2d(hidden, dim, bias=False)
        self.norm3 = norm(dim)
        self.act = SiLU()
        self.drop = nn.Dropout2d(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.expand(x)))
        x = self.act(self.norm2(self.conv(x)))
        return self.drop(self.norm3(self.project(x)))

    def reparameterize(self):
        self.norm1 = absorb_norm(self.expand, self.norm1)
        self.norm2 = absorb_norm(self.conv, self.norm2)
        self.norm3 = absorb_norm(self.project, self.norm3)
