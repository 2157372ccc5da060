"""Aggregated attention by Triton kernels: its custom ops and their gradients. The kernels are in `kernels.py`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glocal.ops.aggregated_attention.kernels import (
    _bias_gradient,
    _forward,
    _neighbour_gradient,
    _pooled_gradient,
    _query_gradient,
)
from glocal.ops.aggregated_attention.reference import Inputs
from glocal.ops.dispatch import interprets
from glocal.ops.launch import launching

BLOCK_N, BLOCK_P = 32, 32


@torch.library.custom_op("glocal::aggregated_attention", mutates_args=())
def _op(
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
) -> tuple[Tensor, Tensor]:
    batch, heads, width_per_head, height, width = q.shape
    pooled = pooled_k.shape[-1]
    out = torch.empty_like(q)
    lse = q.new_empty((batch, heads, height * width), dtype=torch.float32)
    with launching(q):
        _forward[(triton.cdiv(height * width, BLOCK_N), batch * heads)](
            q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias,
            out, lse, heads, height, width, pooled,
            *q.stride(), *k.stride(), *v.stride(), *out.stride(),
            *pooled_k.stride(), *pooled_v.stride(), *pooled_bias.stride(),
            D=width_per_head, BLOCK_N=BLOCK_N, BLOCK_P=BLOCK_P, **_widths(q),
        )  # fmt: skip
    return out, lse


@_op.register_fake
def _(q, k, v, pooled_k, pooled_v, *parameters):
    batch, heads, _, height, width = q.shape
    return torch.empty_like(q), q.new_empty((batch, heads, height * width), dtype=torch.float32)


@torch.library.custom_op("glocal::aggregated_attention_backward", mutates_args=())
def _backward_op(
    inputs: list[Tensor], lse: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, pooled_k, pooled_v and pooled_bias, and of the small parameters, side by side."""
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias = inputs
    batch, heads, width_per_head, height, width = q.shape
    pooled, area = pooled_k.shape[-1], height * width
    blocks = triton.cdiv(area, BLOCK_N)
    gq, gk, gv = (torch.empty_like(q) for _ in range(3))
    g_pooled_k = torch.empty_like(pooled_k, memory_format=torch.contiguous_format)
    g_pooled_v = torch.empty_like(g_pooled_k)
    g_bias = torch.empty_like(pooled_bias, memory_format=torch.contiguous_format)
    delta = torch.empty_like(lse)
    columns = 18 + 10 * width_per_head + 1
    partial = q.new_empty((batch, heads, blocks, columns), dtype=torch.float32)
    size = (heads, height, width, pooled)
    maps = (*q.stride(), *k.stride(), *v.stride(), *gq.stride(), *g.stride())
    tokens_strides = (*pooled_k.stride(), *pooled_v.stride(), *pooled_bias.stride())
    pooled_maps = (*q.stride(), *g.stride(), *tokens_strides)
    widths = _widths(q)
    common = dict(D=width_per_head, BLOCK_N=BLOCK_N, BLOCK_D=widths["BLOCK_D"])
    with launching(q):
        _query_gradient[(blocks, batch * heads)](
            q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias,
            lse, g, gq, delta, partial, *size, *maps, *tokens_strides,
            COLUMNS=columns, TYPE=widths["TYPE"], BLOCK_P=BLOCK_P, **common,
        )  # fmt: skip
        _neighbour_gradient[(blocks, batch * heads)](
            q, k, v, query_embedding, temperature, local_bias, tokens, token_bias, lse, delta, g, gk, gv,
            *size, *maps, **common,
        )  # fmt: skip
        _pooled_gradient[(triton.cdiv(pooled, BLOCK_P), batch * heads)](
            q, pooled_k, pooled_v, query_embedding, temperature, pooled_bias, lse, delta, g, g_pooled_k, g_pooled_v,
            *size, *pooled_maps, TYPE=widths["TYPE"], BLOCK_P=BLOCK_P, **common,
        )  # fmt: skip
        _bias_gradient[(blocks, triton.cdiv(pooled, BLOCK_P), heads)](
            q, pooled_k, pooled_v, query_embedding, temperature, pooled_bias, lse, delta, g, g_bias,
            batch, *size, *pooled_maps, TYPE=widths["TYPE"], BLOCK_P=BLOCK_P, **common,
        )  # fmt: skip
    return gq, gk, gv, g_pooled_k, g_pooled_v, g_bias, partial.sum((0, 2))


@_backward_op.register_fake
def _(inputs, lse, g):
    q, pooled_k, pooled_bias = inputs[0], inputs[3], inputs[8]
    contiguous = dict(memory_format=torch.contiguous_format)
    maps = [torch.empty_like(q) for _ in range(3)]
    pooled = [torch.empty_like(pooled_k, **contiguous) for _ in range(2)]
    sums = q.new_empty((q.shape[1], 18 + 10 * q.shape[2] + 1), dtype=torch.float32)
    return *maps, *pooled, torch.empty_like(pooled_bias, **contiguous), sums


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx, g, _):
    *inputs, lse = ctx.saved_tensors
    gq, gk, gv, g_pooled_k, g_pooled_v, g_bias, sums = _backward_op(inputs, lse, g)
    d = inputs[0].shape[2]
    local_bias, token_bias, tokens, query_embedding, temperature = sums.split([9, 9, 9 * d, d, 1], dim=1)
    tokens = tokens.unflatten(1, (9, d)).transpose(1, 2)
    small = (query_embedding, temperature[:, 0], local_bias, g_bias, tokens, token_bias)
    small = [grad.to(parameter.dtype) for grad, parameter in zip(small, inputs[5:], strict=True)]
    return gq, gk, gv, g_pooled_k, g_pooled_v, *small


_op.register_autograd(_backward, setup_context=_save)


def aggregated_attention(inputs: Inputs) -> Tensor:
    """As `glocal.ops.aggregated_attention`; the parameters may be of another type than the maps."""
    query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias = inputs[5:]
    return _op(
        *inputs[:5], query_embedding.contiguous(), temperature.contiguous(), local_bias.contiguous(), pooled_bias,
        tokens.contiguous(), token_bias.contiguous(),
    )[0]  # fmt: skip


TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def _widths(q: Tensor) -> dict:
    """The type of the matrix products' operands, and the width of a head as a power of two that they take."""
    dtype = TYPES[q.dtype]
    if dtype == tl.bfloat16 and interprets():  # the interpreter of Triton 3.9 multiplies the bits of bfloat16
        dtype = tl.float32
    return {"TYPE": dtype, "BLOCK_D": max(16, triton.next_power_of_2(q.shape[2]))}
