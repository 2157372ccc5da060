"""Attention on a CPU with a bias that is made where it is needed, some queries at a time.

Neither the bias nor the logits nor the weights of all queries are ever written, not for the gradients either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from glocal.ops import dispatch

AT_A_TIME = 2**20  # logits of an image that are computed at a time, so that a cache holds them


class Parts(Protocol):
    """The bias of some rows of a map of queries, H × W, at a time; and the gradient of the tensor it is made of.

    The queries of a part are in the order of their columns.
    """

    def slices(self) -> list[slice]:
        """Rows of queries whose logits are about AT_A_TIME; at least a row's."""

    def of(self, part: slice) -> Tensor:
        """(heads, W · rows, P), P the keys."""

    def add_gradient(self, part: slice, grad: Tensor) -> None:
        """grad: that of what `of` returned."""

    def gradient(self) -> Tensor:
        """That of the tensor, of all that was added."""


class Bias(NamedTuple):
    """How a bias is made of a tensor: in parts, or as a whole, (heads, H·W, P)."""

    parts: Callable[[Tensor], Parts]
    whole: Callable[[Tensor], Tensor]


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, source: Tensor, bias: Bias) -> tuple[Tensor, Tensor]:
    """softmax(q·k + bias)·v, and the logarithm of the sum of each softmax.

    Args:
        q: (B, heads, H, W, d), scaled.
        k, v: (B, heads, P, d).
        source: what the bias is made of.

    Returns:
        (B, heads, H, W, d), and (B, heads, H, W).
    """
    return _Attention.apply(bias, q, k, v, source.to(q.dtype), None, None)


def known_attention(
    q: Tensor, k: Tensor, v: Tensor, source: Tensor, bias: Bias, out: Tensor, logarithm: Tensor
) -> tuple[Tensor, Tensor]:
    """As `tiled_attention`, whose results are already known: for their gradients."""
    if dispatch.transforms_are_active():  # vmap over gradients
        return by_definition(q, k, v, source, bias)
    return _Attention.apply(bias, q, k, v, source.to(q.dtype), out, logarithm)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        bias: Bias,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        source: Tensor,
        out: Tensor | None,
        logarithm: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if out is None or logarithm is None:
            out, logarithm = _attend(q, k, v, bias.parts(source))
        else:
            out, logarithm = out.view_as(out), logarithm.view_as(logarithm)
        ctx.bias = bias
        ctx.save_for_backward(q, k, v, source, out, logarithm)
        return out, logarithm

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_logarithm: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, source, out, logarithm = ctx.saved_tensors
        if torch.is_grad_enabled() or dispatch.transforms_are_active():  # second derivatives, vmap over gradients
            grads = _gradients_by_definition(q, k, v, source, ctx.bias, (grad, grad_logarithm))
        else:
            shared = (grad * out).sum(-1) - grad_logarithm
            grads = _gradients(q, k, v, source, ctx.bias, logarithm, grad, shared)
        return None, *grads, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Parts) -> tuple[Tensor, Tensor]:
    """By an operation of torch's that writes no logits."""
    batch, heads, height, width, d = q.shape
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    k, v = k.contiguous(), v.contiguous()
    out = q.new_empty(batch, height, width, heads, d).permute(0, 3, 1, 2, 4)  # in channels_last
    logarithm = q.new_empty(batch, heads, height, width)
    for part in bias.slices():
        some = q[:, :, part].transpose(2, 3)  # (B, heads, W, rows, d)
        queries = some.flatten(2, 3).contiguous()  # the operation does not look at the strides within a head
        results = attention(queries, k, v, attn_mask=bias.of(part).unsqueeze(0), scale=1.0)
        out[:, :, part] = results[0].view(some.shape).transpose(2, 3)
        logarithm[:, :, part] = results[1].view(some.shape[:-1]).transpose(2, 3)
    return out, logarithm


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, source: Tensor, bias: Bias, logarithm: Tensor, grad: Tensor, shared: Tensor
) -> tuple[Tensor, ...]:
    """Of q, k, v and the source. shared: the part of the softmax's gradient that all keys of a query share."""
    batch, heads, height, width, d = q.shape
    dtype, wide = q.dtype, torch.promote_types(q.dtype, torch.float32)  # sums are in the wide type
    of_q = q.new_empty(batch, height, width, heads, d).permute(0, 3, 1, 2, 4)
    k, v, parts = k.to(wide), v.to(wide), bias.parts(source.to(wide))
    of_k, of_v = torch.zeros_like(k), torch.zeros_like(v)
    for part in parts.slices():
        own = parts.of(part)  # (heads, W · rows, P)
        of_own = None
        for i in range(batch):
            some, up = (x[i, :, part].transpose(1, 2).flatten(1, 2).to(wide) for x in (q, grad))  # (heads, W · rows, d)
            log, less = (x[i, :, part].transpose(1, 2).flatten(1).unsqueeze(2).to(wide) for x in (logarithm, shared))
            weights = (own - log).baddbmm_(some, k[i].transpose(1, 2)).exp_()
            of_v[i].baddbmm_(weights.transpose(1, 2), up)
            slopes = torch.baddbmm(-less, up, v[i].transpose(1, 2)).mul_(weights)
            of_k[i].baddbmm_(slopes.transpose(1, 2), some)
            of_q[i, :, part] = (slopes @ k[i]).view(heads, width, -1, d).transpose(1, 2)
            of_own = slopes if of_own is None else of_own.add_(slopes)
        parts.add_gradient(part, of_own)
    return of_q, of_k.to(dtype), of_v.to(dtype), parts.gradient().to(dtype)


def by_definition(q: Tensor, k: Tensor, v: Tensor, source: Tensor, bias: Bias) -> tuple[Tensor, Tensor]:
    """As `tiled_attention`, with all logits at once."""
    logits = q.flatten(2, 3) @ k.transpose(2, 3) + bias.whole(source)
    out, logarithm = logits.softmax(-1) @ v, logits.logsumexp(-1)
    return out.unflatten(2, q.shape[2:4]), logarithm.unflatten(2, q.shape[2:4])


def _gradients_by_definition(
    q: Tensor, k: Tensor, v: Tensor, source: Tensor, bias: Bias, grads: tuple[Tensor, Tensor]
) -> list[Tensor | None]:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = [tensor.view_as(tensor) for tensor in (q, k, v, source)]  # none is made from another
        results = by_definition(*tensors, bias)
    needed = [tensor for tensor in tensors if tensor.requires_grad]
    of_needed = iter(torch.autograd.grad(results, needed, grads, create_graph=again))
    return [next(of_needed) if tensor.requires_grad else None for tensor in tensors]
