"""Rows that fill up a sequence to a length."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.pad_to_length import graph, reference

__all__ = ["pad_to_length"]

NO_KERNEL = "it is torch's padding"


def pad_to_length(x: Tensor, length: int, value: float = 0.0) -> Tensor:
    """Rows of a number after a sequence that is shorter than a length.

    Args:
        x: (B, N, C).
        length: of the result, at least.
        value: of all elements of the new rows.

    Returns:
        (B, max(N, length), C); in a graph that also has to be right for other sizes (B, N + length, C).
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.tracing():
            return graph.pad_to_length(x, length, value)
    return reference.pad_to_length(x, length, value)
