"""Log-spaced offsets between positions and pooled positions along one axis of a map."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.log_offsets import graph, reference

__all__ = ["log_offsets"]

NO_KERNEL = "it computes a few hundred numbers for each image size"


def log_offsets(size: int, pooled: int, unit: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct offsets between queries and keys along one axis, mapped by sign(Δ) · log2(|Δ| + 1) / log2 8.

    Args:
        size: positions along the axis, the queries 0 … size − 1.
        pooled: keys along the axis; a key's coordinate is the mean of its window under adaptive pooling.
        unit: what an offset of one position is in Δ.
        like: a tensor whose type and device the offsets shall have.

    Returns:
        The offsets, and the index of each (query, key) pair in them, (size · pooled,).

    Source: arXiv 2311.17132, section 3.4 and appendix.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.tracing():
            return graph.log_offsets(size, pooled, unit, like)
    return reference.log_offsets(size, pooled, unit, like)
