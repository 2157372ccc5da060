"""Pure-PyTorch padding of short sequences."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_length(x: Tensor, length: int, value: float) -> Tensor:
    missing = length - x.shape[1]
    return F.pad(x, [0, 0, 0, missing], value=value) if missing > 0 else x
