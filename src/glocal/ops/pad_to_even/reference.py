"""Pure-PyTorch padding of odd sizes."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_even(x: Tensor) -> Tensor:
    pad_bottom, pad_right = x.shape[-2] % 2, x.shape[-1] % 2
    if pad_bottom > 0 or pad_right > 0:
        x = F.pad(x, [0, pad_right, 0, pad_bottom])
    return x
