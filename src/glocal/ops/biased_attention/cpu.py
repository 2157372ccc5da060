"""Attention with a bias on a CPU.

If the bias requires a gradient, torch goes a slow way that also looks for rows without any key, even while gradients
are off.
"""

import torch
from torch import Tensor

from glocal.ops.biased_attention import reference
from glocal.ops.resize_bias.parts import resized
from glocal.ops.tiled_attention import tiled_attention


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and bias.requires_grad):
        return reference.biased_attention(q, k, v, bias if torch.is_grad_enabled() else bias.detach())
    like, heads = q, bias.shape[1]
    q, k, v = (reference.split_heads(x, heads) for x in (q, k, v))
    out = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v
    return reference.to_map(out, like)


def with_resized_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """With a bias of another size, some queries at a time."""
    like, heads = q, bias.shape[1]
    q, k, v = (reference.split_heads(x, heads) for x in (q, k, v))
    q = (q * q.shape[-1] ** -0.5).unsqueeze(3)  # a map of one column
    out, _ = tiled_attention(q, k, v, bias, resized(q.shape[2], k.shape[2]))
    return reference.to_map(out.squeeze(3), like)
