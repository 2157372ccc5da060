"""Attention with a bias for exported graphs: runtimes multiply transposed matrices as they lie."""

import torch
from torch import Tensor


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    batch, channels, height, width = q.shape
    d = channels // bias.shape[1]
    q = (q * d**-0.5).reshape(-1, d, height * width)  # (B·heads, d, H·W)
    k, v = (half.reshape(-1, d, half.shape[2] * half.shape[3]) for half in (k, v))
    logits = torch.bmm(q.transpose(1, 2), k)  # (B·heads, H·W, h·w)
    weights = (logits.reshape(batch, -1, *logits.shape[1:]) + bias).softmax(dim=-1)
    return torch.bmm(v, weights.reshape(logits.shape).transpose(1, 2)).reshape(batch, channels, height, width)
