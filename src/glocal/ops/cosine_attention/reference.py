"""Pure-PyTorch length-scaled cosine attention."""

import math

import torch.nn.functional as F
from torch import Tensor


def cosine_attention(qkv: Tensor, query_embedding: Tensor, temperature: Tensor, bias: Tensor) -> Tensor:
    height, width = qkv.shape[-2], qkv.shape[-1]
    x = attend(qkv, query_embedding, temperature * math.log(height * width), bias)
    # in channels_last, as torch's attention gives it without gradients
    return x.transpose(1, 2).reshape(-1, height, width, qkv.shape[1] // 3).permute(0, 3, 1, 2)


def attend(qkv: Tensor, query_embedding: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """(B, heads, H·W, d), with one scale for each head."""
    q, k, v = split(qkv, query_embedding, scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)


def split(qkv: Tensor, query_embedding: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries, normalised keys, and values, (B, heads, H·W, d) each."""
    batch, _, height, width = qkv.shape
    heads = qkv.reshape(batch, -1, query_embedding.shape[1], height, width)
    q, k, v = heads.flatten(3).transpose(2, 3).chunk(3, dim=1)
    q = (F.normalize(q, dim=-1) + query_embedding.unsqueeze(1)) * scale.view(-1, 1, 1)
    return q, F.normalize(k, dim=-1), v
