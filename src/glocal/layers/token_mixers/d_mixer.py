"""D-Mixer: input-dependent convolution on one half of the channels, reduced attention on the other (TransXNet)."""

from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, halves, in_turn, is_depthwise, is_plain, is_pointwise, pointwise
from glocal.layers.fusion import absorb_input_norm, absorb_norm, absorb_residual
from glocal.layers.graph import leaf
from glocal.layers.norm import BatchNorm2d
from glocal.ops import biased_attention, depthwise_conv, kernel_contexts, mixed_kernels, mixture


@leaf
class DMixer(nn.Module):
    """STE(concat(IDConv(x₁), OSRA(x₂))), x₁ and x₂ the two halves of the channels.

    `forward(x, position)` takes the stage's position bias, (1, heads, H·W, H_s·W_s), or one that `biased_attention`
    resizes. Source: arXiv 2310.19380.

    Args:
        dim: channels, even.
        num_heads: heads of the attention.
        reduction: spatial reduction of its keys.
        num_groups: kernels in the bank of the dynamic convolution.
        kernel_size: side of the dynamic kernel.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        reduction: int,
        num_groups: int = 2,
        kernel_size: int = 7,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        self.local_unit = IDConv(dim // 2, kernel_size, num_groups)
        self.global_unit = OSRA(dim // 2, num_heads, reduction)
        self.enhancer = SqueezedTokenEnhancer(dim)
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        local, distant = x.chunk(2, dim=1)
        x = torch.cat([self.local_unit(local), self.global_unit(distant, position)], dim=1)
        return self.drop(self.enhancer(x))

    def reparameterize(self):
        self.enhancer.reparameterize()
        if isinstance(self.enhancer.norm3, nn.Identity):
            self.output_conv = "enhancer.expand"

    def scale_input(self, weight: Tensor):
        self.enhancer.input_scale = nn.Parameter(weight.detach().clone(), weight.requires_grad)


class IDConv(nn.Module):
    """Input-dependent depthwise convolution: each sample's kernels are a softmax mixture of a learned bank."""

    def __init__(self, dim: int, kernel_size: int = 7, num_groups: int = 2, reduction: int = 4):
        super().__init__()
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(num_groups, dim, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(num_groups, dim))
        hidden = dim // reduction
        self.proj = nn.Sequential(
            OrderedDict(
                squeeze=pointwise(dim, hidden, bias=False),
                norm=BatchNorm2d(hidden),
                act=nn.GELU(),
                expand=pointwise(hidden, num_groups * dim),
            )
        )
        self.reset_parameters()

    def reset_parameters(self):
        trunc_normal_(self.weight, std=0.02)
        trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            weight, bias = self.kernels_by_calls(x)
        else:
            weight, bias = self.kernels(x) if self.is_plain() else self.kernels_by_calls(x)
        return depthwise_conv(x, weight, bias)

    def kernels_by_calls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels, (B, C, k, k), and biases, (B, C), of each sample.

        Two calls of proj, the kernels' first: in training its BN normalises and averages each by itself.
        """
        contexts = kernel_contexts(x, self.kernel_size, together=False)
        weight = mixture(self.proj(contexts[0]), self.weight)
        return weight, mixture(self.proj(contexts[1]), self.bias.unsqueeze(-1).unsqueeze(-1)).flatten(1)

    @torch.jit.unused
    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same without calling proj's last layer: the op may need a part of its result only."""
        contexts = kernel_contexts(x, self.kernel_size, together=not self.training)
        hidden = [self.hidden(context) for context in contexts]
        expand = self.proj.expand
        return mixed_kernels(hidden, expand.weight, expand.bias, self.weight, self.bias, x.shape[-2], x.shape[-1])

    @torch.jit.unused
    def hidden(self, context: Tensor) -> Tensor:
        context = convolve(self.proj.squeeze, context)
        return self.proj.act(self.proj.norm(context))  # BN averages over all of the context

    @torch.jit.unused
    def is_plain(self) -> bool:
        expand = self.proj.expand
        return is_plain(self.proj, nn.Sequential) and is_pointwise(expand) and expand.bias is not None

    def reparameterize(self):
        self.proj.norm = absorb_norm(self.proj.squeeze, self.proj.norm)


class OSRA(nn.Module):
    """Overlapping spatial reduction attention: keys and values from an overlapping strided depthwise convolution."""

    def __init__(self, dim: int, num_heads: int, reduction: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split into {num_heads} heads")
        self.q = pointwise(dim, dim)
        self.kv = pointwise(dim, 2 * dim)
        self.reduce = nn.Identity()
        if reduction > 1:
            kernel = reduction + 3
            self.reduce = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(dim, dim, kernel, reduction, kernel // 2, groups=dim, bias=False),
                    norm1=BatchNorm2d(dim),
                    act=nn.GELU(),
                    scale=depthwise(dim, 1, bias=False),
                    norm2=BatchNorm2d(dim),
                )
            )
        self.local = depthwise(dim, 3)
        self.adds_input = True  # before the keys; else the kernels of `local` do

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            source = self.reduce(x)
            local = self.local(source)
            k, v = self.kv(source + local if self.adds_input else local).chunk(2, dim=1)
            return biased_attention(self.q(x), k, v, position)
        else:
            source = in_turn(self.reduce, x)
            source = convolve(self.local, source, residual=source if self.adds_input else None)
            k, v = halves(self.kv, source)
            return biased_attention(convolve(self.q, x), k, v, position)

    def reparameterize(self):
        if isinstance(self.reduce, nn.Sequential):
            self.reduce.norm1 = absorb_norm(self.reduce.conv, self.reduce.norm1)
            self.reduce.norm2 = absorb_norm(self.reduce.scale, self.reduce.norm2)
        if self.adds_input and is_depthwise(self.local):
            absorb_residual(self.local)
            self.adds_input = False


class SqueezedTokenEnhancer(nn.Module):
    """STE: x + a depthwise 3×3 and a squeezed pair of 1×1 convolutions that join the halves (r = 8, at least 16)."""

    def __init__(self, dim: int, reduction: int = 8, min_dim: int = 16):
        super().__init__()
        hidden = max(min_dim, dim // reduction)
        self.conv = depthwise(dim, 3)
        self.norm1 = BatchNorm2d(dim)
        self.squeeze = pointwise(dim, hidden)
        self.norm2 = BatchNorm2d(hidden)
        self.expand = pointwise(hidden, dim)
        self.norm3 = BatchNorm2d(dim)
        self.register_parameter("input_scale", None)  # of x, once a LayerScale has been merged

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            y = self.norm1(F.gelu(self.conv(x)))
            y = self.expand(self.norm2(F.gelu(self.squeeze(y))))
        else:
            y = self.norm1(convolve(self.conv, x, gelu=True))
            y = convolve(self.expand, self.norm2(convolve(self.squeeze, y, gelu=True)))
        y = self.norm3(y)
        return x + y if self.input_scale is None else torch.addcmul(y, x, self.input_scale)

    def reparameterize(self):
        self.norm1 = absorb_input_norm(self.norm1, self.squeeze)
        self.norm2 = absorb_input_norm(self.norm2, self.expand)
        self.norm3 = absorb_norm(self.expand, self.norm3)
