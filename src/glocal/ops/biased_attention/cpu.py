"""Attention with a bias on a CPU.

If the bias requires a gradient, torch goes a slow way that also looks for rows without any key, even while gradients
are off.
"""

import torch
from torch import Tensor

from glocal.ops.biased_attention import reference


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and bias.requires_grad):
        return reference.biased_attention(q, k, v, bias if torch.is_grad_enabled() else bias.detach())
    like, heads = q, bias.shape[1]
    q, k, v = (reference.split_heads(x, heads) for x in (q, k, v))
    out = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v
    return reference.to_map(out, like)
