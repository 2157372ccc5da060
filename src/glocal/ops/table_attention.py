"""Attention on a CPU with a bias that lies in a table, some rows of queries at a time.

Neither the bias nor the logits nor the weights of all queries are ever written, not for the gradients either.

In the comments the queries are those of a map, H × W, and the keys those of another, h × w, P in all.
"""

from typing import Any

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.offset_bias.reference import offset_bias, take

AT_A_TIME = 2**20  # logits of an image that are computed at a time, so that a cache holds them; at least a row's


def table_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """softmax(q·k + bias)·v, and the logarithm of the sum of each softmax.

    Args:
        q: (B, heads, H, W, d), scaled.
        k, v: (B, heads, P, d).
        table, rows, columns: as in `offset_bias`.

    Returns:
        (B, heads, H, W, d), and (B, heads, H, W).
    """
    return _Attention.apply(q, k, v, table.to(q.dtype), rows, columns, None, None)


def known_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, rows: Tensor, columns: Tensor, out: Tensor, logarithm: Tensor
) -> tuple[Tensor, Tensor]:
    """As `table_attention`, whose results are already known: for their gradients."""
    if dispatch.transforms_are_active():  # vmap over gradients
        return by_definition(q, k, v, table, rows, columns)
    return _Attention.apply(q, k, v, table.to(q.dtype), rows, columns, out, logarithm)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor,
        rows: Tensor,
        columns: Tensor,
        out: Tensor | None,
        logarithm: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if out is None or logarithm is None:
            out, logarithm = _attend(q, k, v, _Bias(table, rows, columns))
        else:
            out, logarithm = out.view_as(out), logarithm.view_as(logarithm)
        ctx.save_for_backward(q, k, v, table, rows, columns, out, logarithm)
        return out, logarithm

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_logarithm: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, rows, columns, out, logarithm = ctx.saved_tensors
        if torch.is_grad_enabled() or dispatch.transforms_are_active():  # second derivatives, vmap over gradients
            grads = _gradients_by_definition(q, k, v, table, rows, columns, (grad, grad_logarithm))
        else:
            shared = (grad * out).sum(-1) - grad_logarithm
            grads = _gradients(q, k, v, _Bias(table, rows, columns), logarithm, grad, shared)
        return *grads, None, None, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: "_Bias") -> tuple[Tensor, Tensor]:
    """By an operation of torch's that writes no logits."""
    batch, heads, height, width, d = q.shape
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    k, v = k.contiguous(), v.contiguous()
    out = q.new_empty(batch, height, width, heads, d).permute(0, 3, 1, 2, 4)  # in channels_last
    logarithm = q.new_empty(batch, heads, height, width)
    for part in bias.parts():
        some = q[:, :, part].transpose(2, 3)  # (B, heads, W, rows, d)
        queries = some.flatten(2, 3).contiguous()  # the operation does not look at the strides within a head
        results = attention(queries, k, v, attn_mask=bias.of(part).unsqueeze(0), scale=1.0)
        out[:, :, part] = results[0].view(some.shape).transpose(2, 3)
        logarithm[:, :, part] = results[1].view(some.shape[:-1]).transpose(2, 3)
    return out, logarithm


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, bias: "_Bias", logarithm: Tensor, grad: Tensor, shared: Tensor
) -> tuple[Tensor, ...]:
    """Of q, k, v and the table. shared: the part of the softmax's gradient that all keys of a query share."""
    batch, heads, height, width, d = q.shape
    dtype, wide = q.dtype, torch.promote_types(q.dtype, torch.float32)  # sums are in the wide type
    of_q = q.new_empty(batch, height, width, heads, d).permute(0, 3, 1, 2, 4)
    k, v, bias = k.to(wide), v.to(wide), bias.to(wide)
    of_k, of_v = torch.zeros_like(k), torch.zeros_like(v)
    for part in bias.parts():
        own = bias.of(part)  # (heads, W · rows, P)
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
        bias.add_gradient(part, of_own)
    return of_q, of_k.to(dtype), of_v.to(dtype), bias.gradient().to(dtype)


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """As `table_attention`, with all logits at once."""
    logits = q.flatten(2, 3) @ k.transpose(2, 3) + offset_bias(table, rows, columns)
    out, logarithm = logits.softmax(-1) @ v, logits.logsumexp(-1)
    return out.unflatten(2, q.shape[2:4]), logarithm.unflatten(2, q.shape[2:4])


def _gradients_by_definition(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, rows: Tensor, columns: Tensor, grads: tuple[Tensor, Tensor]
) -> list[Tensor | None]:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = [tensor.view_as(tensor) for tensor in (q, k, v, table)]  # none is made from another
        results = by_definition(*tensors, rows, columns)
    needed = [tensor for tensor in tensors if tensor.requires_grad]
    of_needed = iter(torch.autograd.grad(results, needed, grads, create_graph=again))
    return [next(of_needed) if tensor.requires_grad else None for tensor in tensors]


class _Bias:
    """The bias of some rows of queries, made from the table; and the table's gradient.

    The table's columns are chosen, or mixed, once: (heads, W, Y, w). The bias of some rows of queries is a choice, or a
    mixture, of the rows of that.
    """

    def __init__(self, table: Tensor, rows: Tensor, columns: Tensor):
        self.table = table
        rows, columns = (x.to(table.dtype) if x.is_floating_point() else x for x in (rows, columns))
        self.rows, self.columns = rows, columns
        by_column = table.permute(1, 2, 0).contiguous()  # (X, heads, Y)
        chosen = take(by_column, columns, 0).unflatten(0, columns.shape[:2])
        self.chosen = chosen.permute(2, 0, 3, 1).contiguous()
        self.of_chosen = torch.zeros(())

    def to(self, dtype: torch.dtype) -> "_Bias":
        return self if dtype == self.table.dtype else _Bias(self.table.to(dtype), self.rows, self.columns)

    def parts(self) -> list[slice]:
        """Rows of queries whose logits are few enough."""
        heads, width, _, across = self.chosen.shape
        height, down = self.rows.shape[:2]
        step = max(1, AT_A_TIME // (heads * width * down * across))
        return [slice(top, min(top + step, height)) for top in range(0, height, step)]

    def of(self, part: slice) -> Tensor:
        """(heads, W · rows, P): the queries column by column."""
        rows = self.rows[part].flatten(0, 1)
        own = rows @ self.chosen if rows.is_floating_point() else self.chosen.index_select(2, rows)
        return own.view(len(own), -1, self.rows.shape[1] * own.shape[3])

    def add_gradient(self, part: slice, grad: Tensor):
        """grad: that of what `of` returned."""
        if not self.of_chosen.ndim:
            self.of_chosen = torch.zeros_like(self.chosen)
        heads, width, _, across = self.chosen.shape
        rows, grad = self.rows[part].flatten(0, 1), grad.view(heads, width, -1, across)
        if rows.is_floating_point():
            self.of_chosen += rows.T @ grad
        else:
            self.of_chosen.index_add_(2, rows, grad)

    def gradient(self) -> Tensor:
        """That of the table, of all that was added."""
        height, width, heads = self.table.shape
        grad = self.of_chosen.permute(1, 3, 0, 2).reshape(-1, heads * height)  # (W · w, heads · Y)
        if self.columns.is_floating_point():
            grad = self.columns.flatten(0, 1).T @ grad
        else:
            grad = grad.new_zeros(width, heads * height).index_add_(0, self.columns.flatten(), grad)
        return grad.view(width, heads, height).permute(2, 0, 1)
