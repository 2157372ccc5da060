"""Pure-PyTorch GroupNorm with one group."""

import torch.nn.functional as F
from torch import Tensor


def sample_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, 1, weight, bias, eps)
