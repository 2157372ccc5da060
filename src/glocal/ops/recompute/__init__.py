"""A function of which autograd keeps the arguments alone: its gradient computes it a second time."""

from collections.abc import Callable

from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.recompute import cpu, reference

__all__ = ["recompute", "recompute_large_map"]

NO_KERNEL = "it calls a function"


def recompute(function: Callable[..., Tensor], *tensors: Tensor, numbers: int, most: int) -> Tensor:
    """function(*tensors), without keeping what its gradient needs if that is more than `most` numbers.

    Second derivatives, and `torch.func.vmap` over gradients, work as far as they do for the function. In a graph, and
    in torch.func, the function is called as it is.

    Args:
        function: it uses no other tensor that requires a gradient, and draws no random numbers.
        numbers: how many autograd would keep.
    """
    if not dispatch.sizes_are_open() and numbers > most and dispatch.can_use_cpu(tensors[0]):
        return cpu.recompute(function, *tensors)
    return reference.recompute(function, *tensors)


def recompute_large_map(function: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
    """function(x, *parameters), of which the gradient keeps the arguments alone if x, (B, C, H, W), is a large map."""
    return recompute(function, x, *parameters, numbers=x.shape[-2] * x.shape[-1], most=dispatch.KEPT_POSITIONS)
