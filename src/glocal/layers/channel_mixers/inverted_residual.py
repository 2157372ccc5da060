"""Inverted residual block (HAT-Net and TransCNN, arXiv 2106.03180)."""

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, is_plain, pointwise
from glocal.layers.fusion import absorb_norm
from glocal.layers.norm import BatchNorm2d
from glocal.ops import silu


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
        self.expand = pointwise(dim, hidden, bias=False)
        self.norm1 = inner_norm(hidden) if inner_norm is not None else nn.Identity()
        self.conv = depthwise(hidden, kernel_size, bias=False)
        self.norm2 = inner_norm(hidden) if inner_norm is not None else nn.Identity()
        self.project = pointwise(hidden, dim, bias=False)
        self.norm3 = norm(dim)
        self.act = nn.SiLU()
        self.drop = nn.Dropout2d(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            x = self.act(self.norm1(self.expand(x)))
            x = self.project(self.act(self.norm2(self.conv(x))))
        else:
            x = self.activated(self.expand, self.norm1, x)
            x = convolve(self.project, self.activated(self.conv, self.norm2, x))
        return self.drop(self.norm3(x))

    @torch.jit.unused
    def activated(self, conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
        """SiLU of a convolution and norm; it overwrites its input if no other code can hold that tensor."""
        y = norm(convolve(conv, x))
        unseen = isinstance(y, Tensor) and is_plain(conv) and is_plain(norm, type(norm)) and is_plain(self.act, nn.SiLU)
        if unseen and type(norm) in (nn.Identity, BatchNorm2d):
            return silu(y)
        return self.act(y)

    def reparameterize(self):
        self.norm1 = absorb_norm(self.expand, self.norm1)
        self.norm2 = absorb_norm(self.conv, self.norm2)
        self.norm3 = absorb_norm(self.project, self.norm3)
