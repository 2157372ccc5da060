"""Zeros beside a map of odd size, for 2×2 convolutions with stride 2."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.pad_to_even import graph, reference

__all__ = ["pad_to_even"]

NO_KERNEL = "it is torch's padding"


def pad_to_even(x: Tensor) -> Tensor:
    """Zeros at the right and at the bottom of an odd size, so that 2×2 convolutions with stride 2 lose no position.

    Args:
        x: (…, H, W).

    Returns:
        (…, H', W'), each side even; in a graph it is one larger than x's, which such a convolution does not notice.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.tracing() or not isinstance(x, Tensor):  # not a tensor: FX traces
            return graph.pad_to_even(x)
    return reference.pad_to_even(x)
