"""Attention of a map's positions over another map's, with a bias for every pair (OSRA)."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.biased_attention import cpu, graph, reference

__all__ = ["biased_attention"]

NO_KERNEL = "it is torch's attention"


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q·k · d^-0.5 + bias) · v for each head, every position of q over all positions of k and v.

    Args:
        q: (B, heads · d, H, W).
        k, v: (B, heads · d, h, w).
        bias: (1, heads, H·W, h·w).

    Returns:
        (B, heads · d, H, W).

    Source: arXiv 2310.19380, section III-B.
    """
    if not torch.jit.is_scripting():
        if dispatch.exporting():
            return graph.biased_attention(q, k, v, bias)
        if dispatch.can_use_cpu(q):
            return cpu.biased_attention(q, k, v, bias)
    return reference.biased_attention(q, k, v, bias)
