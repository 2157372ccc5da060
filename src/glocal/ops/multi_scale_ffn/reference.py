"""Pure-PyTorch multi-scale feed-forward network."""

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_scale_ffn(
    x: Tensor,
    expand: Tensor,
    moments: tuple[Tensor, Tensor],
    affine: tuple[Tensor, Tensor],
    eps: float,
    kernels: list[Tensor],
    biases: list[Tensor],
    project: Tensor,
    bias: Tensor | None,
) -> Tensor:
    x = F.batch_norm(F.gelu(F.conv2d(x, expand)), *moments, *affine, eps=eps)
    parts = x.split([len(kernel) for kernel in kernels], dim=1)
    convolved = [
        F.conv2d(part, kernel, own, padding=kernel.shape[-1] // 2, groups=len(kernel))
        for part, kernel, own in zip(parts, kernels, biases, strict=True)
    ]
    return F.conv2d(F.gelu(torch.cat(convolved, dim=1)), project, bias)
