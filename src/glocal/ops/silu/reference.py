"""Pure-PyTorch SiLU."""

import torch.nn.functional as F
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    return F.silu(x)
