"""LayerNorm over the channels of a feature map."""

from torch import Tensor

from glocal.ops.channel_norm import reference

__all__ = ["channel_norm"]


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise each position of (B, C, H, W) over C, then scale and shift by `weight` and `bias`, both (C,)."""
    return reference.channel_norm(x, weight, bias, eps)
