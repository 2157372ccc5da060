"""Aggregated attention: 3×3 local keys and pooled keys in one softmax (TransNeXt)."""

from functools import partial

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.aggregated_attention import cpu, reference

__all__ = ["aggregated_attention"]


def aggregated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_k: Tensor,
    pooled_v: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    local_bias: Tensor,
    pooled_bias: Tensor,
    tokens: Tensor,
    token_bias: Tensor,
) -> Tensor:
    """Attend from every position to its 3×3 neighbourhood and to pooled tokens at once.

    With q_s = (q + query_embedding) · temperature · log N, N the valid neighbours plus the pooled tokens:
    a = softmax over [q_s·k_local + local_bias | q_s·k_pooled + pooled_bias], neighbours outside the map excluded;
    output = Σ a·v_pooled + Σ (a + q·tokens + token_bias)·v_local ("positional attention", added after the softmax).

    Args:
        q, k: (B, heads, d, H, W), both of unit L2 norm over d.
        v: (B, heads, d, H, W).
        pooled_k: (B, heads, d, P), of unit L2 norm over d; pooled_v likewise, not normalised.
        query_embedding: (heads, d).
        temperature: (heads,), positive.
        local_bias: (heads, 9), the neighbours in row-major order.
        pooled_bias: (heads, P, H·W), finite.
        tokens: (heads, d, 9); token_bias: (heads, 9).

    Returns:
        (B, heads, d, H, W).

    Source: arXiv 2311.17132, section 3 (pixel-focused and aggregated attention, length-scaled cosine).
    """
    if not torch.jit.is_scripting():  # by itself, so that TorchScript compiles nothing of it
        maps = [q, k, v, pooled_k, pooled_v]
        parameters = [query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias]
        if dispatch.takes_triton("aggregated_attention", maps + parameters, partial(_limits, maps, parameters)):
            return _by_triton(maps, parameters)
        if dispatch.takes_cpu(q):
            return cpu.aggregated_attention(*maps, *parameters)
    return reference.aggregated_attention(
        q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias
    )


def _limits(maps: list[Tensor], parameters: list[Tensor]) -> str | None:
    q, k, v, pooled_k, pooled_v = maps
    query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias = parameters
    batch, heads, width, rows, columns = q.shape
    pooled = pooled_k.shape[-1]
    if width > 128:
        return f"heads of {width} channels are wider than 128"
    return dispatch.too_many(batch * heads) or dispatch.other_shapes(
        k=(k, tuple(q.shape)),
        v=(v, tuple(q.shape)),
        pooled_k=(pooled_k, (batch, heads, width, pooled)),
        pooled_v=(pooled_v, (batch, heads, width, pooled)),
        query_embedding=(query_embedding, (heads, width)),
        temperature=(temperature, (heads,)),
        local_bias=(local_bias, (heads, 9)),
        pooled_bias=(pooled_bias, (heads, pooled, rows * columns)),
        tokens=(tokens, (heads, width, 9)),
        token_bias=(token_bias, (heads, 9)),
    )


def _by_triton(maps: list[Tensor], parameters: list[Tensor]) -> Tensor:
    from glocal.ops.aggregated_attention import triton

    return triton.aggregated_attention(*dispatch.autocast(*maps), *parameters)
