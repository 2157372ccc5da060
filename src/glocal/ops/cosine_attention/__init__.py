"""Cosine attention between all positions, scaled by the number of keys (TransNeXt's last stage)."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.cosine_attention import cpu, graph, reference
from glocal.ops.offset_bias import offset_bias

__all__ = ["cosine_attention"]

NO_KERNEL = "it is torch's attention"


def cosine_attention(
    qkv: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    bias: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """Attend from every position to all positions.

    With N = H·W positions and q̂, k̂ of unit L2 norm over a head's d channels:
    output = softmax((q̂ + query_embedding) · temperature · log N · k̂ + bias) · v.

    Args:
        qkv: (B, 3 · heads · d, H, W): queries, keys and values.
        query_embedding: (heads, d).
        temperature: (heads,), positive.
        bias: (1, heads, N, N), queries first; or, with rows and columns, the table (Y, X, heads) of `offset_bias`.
        rows, columns: what the table has for a query's row or column and a key's, as in `offset_bias`.

    Returns:
        (B, heads · d, H, W).

    Source: arXiv 2311.17132, section 3.3 (length-scaled cosine attention, query embedding).
    """
    if rows is not None and columns is not None:
        if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
            if dispatch.can_use_own_gradients([qkv, query_embedding, temperature, bias]):
                return cpu.cosine_attention(qkv, query_embedding, temperature, bias, rows, columns)
        bias = offset_bias(bias, rows, columns).unsqueeze(0)
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.exporting() or dispatch.tracing():
            return graph.cosine_attention(qkv, query_embedding, temperature, bias)
    return reference.cosine_attention(qkv, query_embedding, temperature, bias)
