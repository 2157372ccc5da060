"""Pure-PyTorch depthwise convolution."""

import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    batch, channels, height, width = x.shape
    padding = dilation * (weight.shape[-1] // 2)
    if weight.shape[1] == 1 and weight.shape[0] == channels:  # one kernel per channel
        return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=channels)
    # One kernel per sample and channel: a batch of one with B·C channels.
    x = x.reshape(1, batch * channels, height, width)
    weight = weight.reshape(batch * channels, 1, weight.shape[-2], weight.shape[-1])
    if bias is not None:
        bias = bias.reshape(batch * channels)
    x = F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=batch * channels)
    return x.reshape(batch, channels, height, width)
