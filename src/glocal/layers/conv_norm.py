"""A convolution and its norm, as the heads of dense tasks use them."""

from collections.abc import Callable

from torch import Tensor, nn

from glocal.layers.fusion import absorb_norm
from glocal.layers.norm import BatchNorm2d


class ConvNorm(nn.Module):
    """k×k convolution that keeps the size, norm, ReLU: (B, C, H, W) → (B, D, H, W).

    Args:
        in_dim, dim: channels C and D.
        kernel_size: odd.
        norm: built as `norm(dim)`; None for none.
        relu: whether a ReLU follows.
        bias: of the convolution; by default only where no norm follows.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel_size: int = 1,
        norm: Callable[[int], nn.Module] | None = BatchNorm2d,
        relu: bool = True,
        bias: bool | None = None,
    ):
        super().__init__()
        bias = norm is None if bias is None else bias
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, padding=kernel_size // 2, bias=bias)
        self.norm = norm(dim) if norm is not None else nn.Identity()
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))

    def reparameterize(self):
        self.norm = absorb_norm(self.conv, self.norm)


class ConvGroupNorm(nn.Sequential):
    """k×k convolution, which keeps the size or halves it, and GroupNorm with 32 groups: (B, C, H, W) → (B, D, …)."""

    def __init__(self, in_dim: int, dim: int, kernel_size: int, bias: bool, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, stride, kernel_size // 2, bias=bias)
        self.norm = nn.GroupNorm(32, dim)
