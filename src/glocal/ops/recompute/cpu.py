"""A function whose gradient computes it a second time, so that autograd keeps the arguments alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def recompute(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    return _Recomputed.apply(function, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.autocast = {"enabled": torch.is_autocast_enabled("cpu"), "dtype": torch.get_autocast_dtype("cpu")}
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # somebody asks for second derivatives
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad(), torch.autocast("cpu", **ctx.autocast):
            tensors = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]  # none is made from another
            out = ctx.function(*tensors)
        return None, *gradients(out, tensors, needed, grad, again)


def gradients(
    out: Tensor, tensors: Sequence[Tensor], needed: Sequence[bool], grad: Tensor, again: bool = False
) -> list[Tensor | None]:
    """The gradients of the tensors that need them. again: second derivatives will be asked for."""
    wanted = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=again) if wanted else ())
    return [next(found) if need else None for need in needed]
