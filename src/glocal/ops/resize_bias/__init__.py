"""Bicubic resize of a learned position bias to another number of queries and keys."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.resize_bias import graph, reference

__all__ = ["resize_bias", "resized_in_parts"]

NO_KERNEL = "it is torch's interpolation"
FEW = 2**18  # pairs of a query and a key: below, an attention that writes all of them is as fast


def resize_bias(bias: Tensor, queries: int, keys: int) -> Tensor:
    """Resize (1, heads, queries', keys') to (1, heads, queries, keys), bicubic over the last two axes.

    If both numbers are the bias's own, the result is the bias itself, not a copy.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.exporting():
            return graph.resize_bias(bias, queries, keys)
    if not dispatch.tracing() and bias.shape[2] == queries and bias.shape[3] == keys:
        return bias
    return reference.resize_bias(bias, queries, keys)


def resized_in_parts(bias: Tensor, queries: int, keys: int, like: Tensor) -> bool:
    """Whether `biased_attention` takes the bias as it is, and resizes what some queries at a time need of it.

    like: the attention's map of queries.
    """
    return (
        not dispatch.sizes_are_open()
        and queries * keys >= FEW
        and bias.shape[2:] != (queries, keys)
        and dispatch.can_use_own_gradients([like, bias])
    )
