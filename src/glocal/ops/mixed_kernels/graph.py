"""Mixed kernels and biases in one pass, for exported graphs, in which each operation costs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops.adaptive_average_pool.graph import averaged, averages
from glocal.ops.mixed_kernels.reference import mixture


def kernel_contexts(x: Tensor, side: int) -> list[Tensor]:
    """The pooled map, (B, C, side, side), and one more row and column, whose corner is the mean of the map."""
    down, across = (torch.cat([averages(length, side), averages(length, 1)]) for length in x.shape[-2:])
    return [averaged(x, down, across)]


def mixed_kernels(
    hidden: Tensor, expand: Tensor, expand_bias: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    side = weight.shape[-1]
    bank = F.pad(weight, [0, 1, 0, 1]) + F.pad(bias[..., None, None], [side, 0, side, 0])
    if len(bank) == 2:  # a softmax over two is a sigmoid of their difference
        expand, expand_bias = (first - second for first, second in (expand.chunk(2), expand_bias.chunk(2)))
        mixed = bank[1] + F.conv2d(hidden, expand, expand_bias).sigmoid() * (bank[0] - bank[1])
    else:
        mixed = mixture(F.conv2d(hidden, expand, expand_bias), bank)
    return mixed[..., :side, :side], mixed[..., side:, side:].flatten(1)
