"""Multi-scale feed-forward network (TransXNet, arXiv 2310.19380)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, is_depthwise, is_plain, is_pointwise, pointwise
from glocal.layers.fusion import absorb_input_norm, absorb_norm, absorb_residual
from glocal.layers.graph import leaf
from glocal.layers.norm import BatchNorm2d
from glocal.ops import FFNParameters, multi_scale_depthwise_conv, multi_scale_ffn


@leaf
class MSFFN(nn.Module):
    """pw → GELU → BN → y + depthwise 1/3/5/7(y), a quarter of the channels each → GELU → BN → pw → BN."""

    input_conv, output_conv = "fc1", None  # the last is a norm

    def __init__(
        self, dim: int, expansion: float = 4.0, kernel_sizes: tuple[int, ...] = (1, 3, 5, 7), proj_drop: float = 0.0
    ):
        super().__init__()
        hidden = int(dim * expansion)
        part = hidden // len(kernel_sizes)
        self.split = [hidden - part * (len(kernel_sizes) - 1)] + [part] * (len(kernel_sizes) - 1)
        self.fc1 = pointwise(dim, hidden, bias=False)
        self.norm1 = BatchNorm2d(hidden)
        self.convs = nn.ModuleList(depthwise(c, k) for c, k in zip(self.split, kernel_sizes, strict=True))
        self.norm2 = BatchNorm2d(hidden)
        self.fc2 = pointwise(hidden, dim, bias=False)
        self.norm3 = BatchNorm2d(dim)
        self.drop = nn.Dropout(proj_drop)
        self.adds_input = True  # False after merging: the kernels then add it

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            x = self.norm1(F.gelu(self.fc1(x)))
            x = self.norm2(F.gelu(self.branch_by_branch(x)))
            return self.drop(self.norm3(self.fc2(self.drop(x))))
        else:
            weights, biases = self.kernels()
            if weights and self.is_merged():
                norm, project = self.norm1, self.fc2
                statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
                parameters = FFNParameters(self.fc1.weight, *statistics, weights, biases, project.weight, project.bias)
                x = multi_scale_ffn(x, parameters)
                return self.norm3(x)
            x = self.norm1(convolve(self.fc1, x, gelu=True))
            if weights:
                x = multi_scale_depthwise_conv(x, weights, biases, self.adds_input, gelu=True)
            else:
                x = F.gelu(self.branch_by_branch(x))
            return self.drop(self.norm3(convolve(self.fc2, self.drop(self.norm2(x)))))

    def branch_by_branch(self, x: Tensor) -> Tensor:
        parts = x.split(self.split, dim=1)
        branches: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            branches.append(conv(parts[i]))
        y = torch.cat(branches, dim=1)
        return x + y if self.adds_input else y

    @torch.jit.unused
    def kernels(self) -> tuple[list[Tensor], list[Tensor]]:
        """Kernels and biases of the depthwise convolutions; two empty lists if one of them has to be called."""
        convs = list(self.convs)
        if all(is_depthwise(conv) and conv.dilation == (1, 1) and conv.bias is not None for conv in convs):
            return [conv.weight for conv in convs], [conv.bias for conv in convs]
        return [], []

    @torch.jit.unused
    def is_merged(self) -> bool:
        """Whether all up to the last norm is plain and without residuals, as `reparameterize` leaves it."""
        return (
            not self.training
            and not self.adds_input
            and is_plain(self.norm2, nn.Identity)
            and is_plain(self.norm1, BatchNorm2d)
            and self.norm1.running_var is not None
            and self.norm1.weight is not None
            and is_plain(self.drop, nn.Dropout)
            and is_pointwise(self.fc1)
            and self.fc1.bias is None
            and is_pointwise(self.fc2)
        )

    def reparameterize(self):
        self.norm2 = absorb_input_norm(self.norm2, self.fc2)
        self.norm3 = absorb_norm(self.fc2, self.norm3)
        if isinstance(self.norm3, nn.Identity):
            self.output_conv = "fc2"
        if self.adds_input and all(is_depthwise(conv) for conv in self.convs):
            for conv in self.convs:
                absorb_residual(conv)
            self.adds_input = False
