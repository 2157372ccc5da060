"""Cosine attention between all positions, scaled by the number of keys (TransNeXt's last stage)."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.cosine_attention import graph, reference

__all__ = ["cosine_attention"]

NO_KERNEL = "it is torch's attention"


def cosine_attention(qkv: Tensor, query_embedding: Tensor, temperature: Tensor, bias: Tensor) -> Tensor:
    """Attend from every position to all positions.

    With N = H·W positions and q̂, k̂ of unit L2 norm over a head's d channels:
    output = softmax((q̂ + query_embedding) · temperature · log N · k̂ + bias) · v.

    Args:
        qkv: (B, 3 · heads · d, H, W): queries, keys and values.
        query_embedding: (heads, d).
        temperature: (heads,), positive.
        bias: (1, heads, N, N), queries first.

    Returns:
        (B, heads · d, H, W).

    Source: arXiv 2311.17132, section 3.3 (length-scaled cosine attention, query embedding).
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.exporting() or dispatch.tracing():
            return graph.cosine_attention(qkv, query_embedding, temperature, bias)
    return reference.cosine_attention(qkv, query_embedding, temperature, bias)
