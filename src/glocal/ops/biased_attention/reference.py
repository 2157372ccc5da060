"""Pure-PyTorch attention with a bias."""

import torch.nn.functional as F
from torch import Tensor


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    heads = bias.shape[1]
    out = F.scaled_dot_product_attention(
        split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), attn_mask=bias
    )
    return to_map(out, q)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, C, H, W) → (B, heads, H·W, d)."""
    return x.reshape(x.shape[0], heads, x.shape[1] // heads, x.shape[2] * x.shape[3]).transpose(2, 3)


def to_map(x: Tensor, like: Tensor) -> Tensor:
    """(B, heads, H·W, d) → (B, C, H, W) in channels_last, the shape of `like`."""
    batch, channels, height, width = like.shape
    return x.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
