"""Pure-PyTorch 1×1 convolution."""

import torch.nn.functional as F
from torch import Tensor


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    x = F.conv2d(x, weight, bias)
    return F.gelu(x) if gelu else x
