"""Attention of a map's positions over another map's, with a bias for every pair (OSRA)."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.biased_attention import cpu, graph, reference
from glocal.ops.resize_bias import resize_bias

__all__ = ["biased_attention"]

NO_KERNEL = "it is torch's attention"


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q·k · d^-0.5 + bias) · v for each head, every position of q over all positions of k and v.

    Args:
        q: (B, heads · d, H, W).
        k, v: (B, heads · d, h, w).
        bias: (1, heads, H·W, h·w); or, outside graphs, of any size: it is then resized as `resize_bias` does.

    Returns:
        (B, heads · d, H, W).

    Source: arXiv 2310.19380, section III-B.
    """
    if not torch.jit.is_scripting():
        if dispatch.exporting():
            return graph.biased_attention(q, k, v, bias)
        if not dispatch.sizes_are_open():
            queries, keys = q.shape[2] * q.shape[3], k.shape[2] * k.shape[3]
            if bias.shape[2:] != (queries, keys) and dispatch.can_use_own_gradients([q, k, v, bias]):
                return cpu.with_resized_bias(q, k, v, bias)
            bias = resize_bias(bias, queries, keys)
        if dispatch.can_use_cpu(q):
            return cpu.biased_attention(q, k, v, bias)
    return reference.biased_attention(q, k, v, bias)
