"""Pure-PyTorch bicubic resize of a position bias."""

import torch.nn.functional as F
from torch import Tensor


def resize_bias(bias: Tensor, queries: int, keys: int) -> Tensor:
    return F.interpolate(bias, size=[queries, keys], mode="bicubic", align_corners=False)
