"""Pure-PyTorch multi-scale feed-forward network."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class FFNParameters(NamedTuple):
    """The parameters of `multi_scale_ffn`.

    expand: (D, C, 1, 1).
    mean, variance: running statistics of the batch norm, (D,) each.
    weight, bias, eps: its scale and shift, (D,) each, and its epsilon.
    kernels: (D_i, 1, k_i, k_i), odd k_i, for the first D_0 channels, the next D_1, …; ΣD_i = D.
    biases: (D_i,) each.
    project: (C', D, 1, 1).
    project_bias: (C',), or None.
    """

    expand: Tensor
    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    kernels: list[Tensor]
    biases: list[Tensor]
    project: Tensor
    project_bias: Tensor | None


def multi_scale_ffn(x: Tensor, p: FFNParameters) -> Tensor:
    x = F.batch_norm(F.gelu(F.conv2d(x, p.expand)), p.mean, p.variance, p.weight, p.bias, eps=p.eps)
    parts = x.split([len(kernel) for kernel in p.kernels], dim=1)
    convolved = [
        F.conv2d(part, kernel, own, padding=kernel.shape[-1] // 2, groups=len(kernel))
        for part, kernel, own in zip(parts, p.kernels, p.biases, strict=True)
    ]
    return F.conv2d(F.gelu(torch.cat(convolved, dim=1)), p.project, p.project_bias)
