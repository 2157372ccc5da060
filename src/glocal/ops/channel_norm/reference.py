"""Pure-PyTorch LayerNorm over C of an NCHW map."""

import torch.nn.functional as F
from torch import Tensor


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    x = x.permute(0, 2, 3, 1)  # (B, H, W, C): free when x is channels_last
    return F.layer_norm(x, weight.shape, weight, bias, eps).permute(0, 3, 1, 2)
