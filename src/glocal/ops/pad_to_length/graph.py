"""Padding of short sequences for graphs, which have no branches."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_length(x: Tensor, length: int, value: float) -> Tensor:
    """As many rows as a sequence without any would need."""
    return F.pad(x, [0, 0, 0, length], value=value)
