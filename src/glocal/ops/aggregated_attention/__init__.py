"""Aggregated attention: 3×3 local keys and pooled keys in one softmax (TransNeXt)."""

from functools import partial

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.aggregated_attention import cpu, reference
from glocal.ops.aggregated_attention.reference import Inputs
from glocal.ops.offset_bias import offset_bias

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
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """Attend from every position to its 3×3 neighbourhood and to pooled tokens at once.

    With q̂ and k̂ of unit L2 norm over d, q_s = (q̂ + query_embedding) · temperature · log N, N the valid neighbours plus
    the pooled tokens: a = softmax over [q_s·k̂_local + local_bias | q_s·k̂_pooled + pooled_bias], neighbours outside the
    map excluded; output = Σ a·v_pooled + Σ (a + q̂·tokens + token_bias)·v_local ("positional attention", added after the
    softmax).

    Args:
        q, k, v: (B, heads, d, H, W).
        pooled_k, pooled_v: (B, heads, d, P).
        query_embedding: (heads, d).
        temperature: (heads,), positive.
        local_bias: (heads, 9), the neighbours in row-major order.
        pooled_bias: (heads, P, H·W), finite; or, with rows and columns, the table (Y, X, heads) of `offset_bias`.
        tokens: (heads, d, 9); token_bias: (heads, 9).
        rows, columns: what the table has for a query's row or column and a pooled key's, as in `offset_bias`.

    Returns:
        (B, heads, d, H, W).

    Source: arXiv 2311.17132, section 3 (pixel-focused and aggregated attention, length-scaled cosine).
    """
    inputs = Inputs(
        q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias
    )
    if rows is not None and columns is not None:
        if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
            if dispatch.can_use_own_gradients(inputs):
                return cpu.with_table(inputs, rows, columns)
        bias = offset_bias(pooled_bias, rows, columns).transpose(1, 2)
        inputs = Inputs(q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, bias, tokens, token_bias)
    if not torch.jit.is_scripting():
        if dispatch.can_use_triton("aggregated_attention", inputs, partial(_limits, inputs)):
            return _by_triton(inputs)
        if dispatch.can_use_cpu(q):
            return cpu.aggregated_attention(inputs)
        return reference.aggregated_attention(inputs, sum_by_product=dispatch.exporting())
    return reference.aggregated_attention(inputs)


def _limits(inputs: Inputs) -> str | None:
    batch, heads, width, rows, columns = inputs.q.shape
    pooled = inputs.pooled_k.shape[-1]
    if width > 128:
        return f"heads of {width} channels are wider than 128"
    shapes = (
        *[(batch, heads, width, rows, columns)] * 3,
        *[(batch, heads, width, pooled)] * 2,
        (heads, width),
        (heads,),
        (heads, 9),
        (heads, pooled, rows * columns),
        (heads, width, 9),
        (heads, 9),
    )
    pairs = dict(zip(Inputs._fields, zip(inputs, shapes, strict=True), strict=True))
    return dispatch.too_many(batch * heads) or dispatch.other_shapes(**pairs)


def _by_triton(inputs: Inputs) -> Tensor:
    from glocal.ops.aggregated_attention import triton

    inputs = reference.normalised(inputs)
    return triton.aggregated_attention(Inputs(*dispatch.autocast(*inputs[:5]), *inputs[5:]))
