"""Pure-PyTorch aggregated attention: the neighbours are nine shifted views of one padded map, never nine copies."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Inputs(NamedTuple):
    """The arguments of `glocal.ops.aggregated_attention`, which says what each one is."""

    q: Tensor
    k: Tensor
    v: Tensor
    pooled_k: Tensor
    pooled_v: Tensor
    query_embedding: Tensor
    temperature: Tensor
    local_bias: Tensor
    pooled_bias: Tensor
    tokens: Tensor
    token_bias: Tensor


def aggregated_attention(inputs: Inputs, sum_by_product: bool = False) -> Tensor:
    """sum_by_product: runtimes take ten times as long for a sum over an axis in the middle as for a product."""
    inputs = normalised(inputs)
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias = inputs
    batch, heads, d, height, width = q.shape
    pooled = pooled_k.shape[-1]
    outside = outside_map(height, width, q.device)  # (9, H·W)
    length = (9 + pooled - outside.sum(0)).to(q.dtype)  # N: keys that each query really has

    scale = temperature.view(heads, 1, 1) * length.log()  # (heads, 1, H·W)
    q = q.flatten(3)  # (B, heads, d, H·W)
    scaled_q = (q + query_embedding.unsqueeze(-1)) * scale

    query_map = scaled_q.view(batch, heads, d, height, width)
    local_logits = torch.cat([_dot(query_map, neighbour, sum_by_product) for neighbour in neighbours(k)], dim=2)
    local_bias = local_bias.unsqueeze(-1).masked_fill(outside, float("-inf"))  # (heads, 9, H·W)
    pooled_logits = pooled_k.transpose(-2, -1) @ scaled_q + pooled_bias  # (B, heads, P, H·W)
    attention = torch.cat([local_logits + local_bias, pooled_logits], dim=2).softmax(dim=2)
    local_attention, pooled_attention = attention[:, :, :9], attention[:, :, 9:]

    positional = tokens.transpose(-2, -1) @ q + token_bias.unsqueeze(-1)  # (B, heads, 9, H·W)
    local_attention = local_attention + positional
    out = pooled_v @ pooled_attention
    local_attention = local_attention.view(batch, heads, 9, height, width)
    out = out.view(batch, heads, d, height, width)
    for i, neighbour in enumerate(neighbours(v)):
        out = out + local_attention[:, :, i : i + 1] * neighbour
    return out


def normalised(inputs: Inputs) -> Inputs:
    """With queries and keys of unit length."""
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias = inputs
    q, k, pooled_k = F.normalize(q, dim=2), F.normalize(k, dim=2), F.normalize(pooled_k, dim=2)
    return Inputs(
        q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias
    )


def _dot(a: Tensor, b: Tensor, sum_by_product: bool) -> Tensor:
    """Products of the vectors at each position, (B, heads, 1, H·W)."""
    product = (a * b).flatten(3)
    if sum_by_product:
        return torch.ones(1, product.shape[2], dtype=product.dtype, device=product.device) @ product
    return product.sum(2, keepdim=True)


def neighbours(x: Tensor) -> list[Tensor]:
    """The nine 3×3 neighbours of every position, row-major, as views of one zero-padded (…, H+2, W+2) map."""
    height, width = x.shape[-2], x.shape[-1]
    padded = F.pad(x, [1, 1, 1, 1])
    views: list[Tensor] = []
    for i in range(3):
        for j in range(3):
            views.append(padded[..., i : i + height, j : j + width])
    return views


def outside_map(height: int, width: int, device: torch.device) -> Tensor:
    """(9, H·W) bool: the neighbour falls outside the map."""
    inside = torch.ones(height, width, dtype=torch.bool, device=device)
    return torch.stack([~view for view in neighbours(inside)]).flatten(1)
