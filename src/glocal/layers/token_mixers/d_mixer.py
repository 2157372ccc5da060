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
from glocal.layers.pooling import adaptive_average_pool, cells_and_mean
from glocal.ops import depthwise_conv, pointwise_conv, taps_within_reach
from glocal.ops.dispatch import exporting, takes_cpu


@leaf
class DMixer(nn.Module):
    """STE(concat(IDConv(x₁), OSRA(x₂))), x₁ and x₂ the two halves of the channels.

    `forward(x, position)` takes the stage's position bias, (1, heads, H·W, H_s·W_s). Source: arXiv 2310.19380.

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
        if exporting() and not self.training and self.is_plain():
            weight, bias = self.kernels_at_once(x)
            return depthwise_conv(x, weight, bias)
        # Two calls of proj, the kernels' first: in training its BN normalises and averages each by itself.
        height, width = x.shape[-2], x.shape[-1]
        context = adaptive_average_pool(x, self.kernel_size, self.kernel_size)
        weight = self.mix(context, self.weight, height, width)  # (B, C, K, K)
        bias = self.bias.unsqueeze(-1).unsqueeze(-1)
        bias = self.mix(x.mean(dim=(2, 3), keepdim=True), bias, height, width)  # (B, C, 1, 1)
        return depthwise_conv(x, weight, bias.flatten(1))

    def mix(self, context: Tensor, bank: Tensor, height: int, width: int) -> Tensor:
        """Mix the bank, (G, C, k, k), with weights from the context, (B, C, k, k), to (B, C, k, k).

        On a map smaller than the kernel, without the outer taps, which would not meet it.
        """
        if torch.jit.is_scripting():
            logits = self.proj(context)
        else:
            side = max(height, width)  # the kernels stay square
            bank = taps_within_reach(bank, side, side)
            if is_plain(self.proj, nn.Sequential):
                logits = convolve(self.proj.expand, taps_within_reach(self.hidden(context), side, side))
            else:
                logits = taps_within_reach(self.proj(context), side, side)
        return self.mixture(logits, bank)

    def mixture(self, logits: Tensor, bank: Tensor) -> Tensor:
        groups, channels, rows, columns = bank.shape
        weights = logits.reshape(-1, groups, channels, rows, columns).softmax(dim=1)
        return (weights * bank).sum(dim=1)

    @torch.jit.unused
    def hidden(self, context: Tensor) -> Tensor:
        context = convolve(self.proj.squeeze, context)
        return self.proj.act(self.proj.norm(context))  # BN averages over all of the context

    @torch.jit.unused
    def is_plain(self) -> bool:
        expand = self.proj.expand
        return is_plain(self.proj, nn.Sequential) and is_pointwise(expand) and expand.bias is not None

    @torch.jit.unused
    def kernels_at_once(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The kernels, (B, C, k, k), and biases, (B, C), from one pass of proj, for graphs: each operation costs."""
        side = self.kernel_size
        bank = F.pad(self.weight, [0, 1, 0, 1]) + F.pad(self.bias[..., None, None], [side, 0, side, 0])
        hidden = self.hidden(cells_and_mean(x, side))
        if len(bank) == 2:  # a softmax over two is a sigmoid of their difference
            weight, bias = self.proj.expand.weight, self.proj.expand.bias
            weight, bias = (first - second for first, second in (weight.chunk(2), bias.chunk(2)))
            mixed = bank[1] + F.conv2d(hidden, weight, bias).sigmoid() * (bank[0] - bank[1])
        else:
            mixed = self.mixture(convolve(self.proj.expand, hidden), bank)
        return mixed[..., :side, :side], mixed[..., side:, side:].flatten(1)

    def reparameterize(self):
        self.proj.norm = absorb_norm(self.proj.squeeze, self.proj.norm)


class OSRA(nn.Module):
    """Overlapping spatial reduction attention: keys and values from an overlapping strided depthwise convolution."""

    def __init__(self, dim: int, num_heads: int, reduction: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split into {num_heads} heads")
        self.head_dim = dim // num_heads
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
            q, kv = self.q(x), self.kv(source + local if self.adds_input else local)
        else:
            source = in_turn(self.reduce, x)
            source = convolve(self.local, source, residual=source if self.adds_input else None)
            if exporting() and is_pointwise(self.q) and self.q.bias is not None:
                return self.attend_in_graph(x, source, position)
            q, kv = convolve(self.q, x), convolve(self.kv, source)
        k, v = self.split_heads(kv).chunk(2, dim=1)
        out = biased_attention(self.split_heads(q), k, v, position)  # (B, heads, H·W, d)
        batch, channels, height, width = x.shape
        return out.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # in channels_last

    @torch.jit.unused
    def attend_in_graph(self, x: Tensor, source: Tensor, position: Tensor) -> Tensor:
        """What `forward` makes of the keys' source, for graphs: runtimes multiply transposed matrices as they lie."""
        width = self.head_dim
        k, v = (half.reshape(-1, width, half.shape[2] * half.shape[3]) for half in halves(self.kv, source))
        q = pointwise_conv(x, self.q.weight * width**-0.5, self.q.bias * width**-0.5)
        q = q.reshape(-1, width, q.shape[2] * q.shape[3])
        logits = torch.bmm(q.transpose(1, 2), k)  # (B·heads, H·W, H_s·W_s)
        weights = (logits.reshape(x.shape[0], -1, *logits.shape[1:]) + position).softmax(dim=-1)
        return torch.bmm(v, weights.reshape(logits.shape).transpose(1, 2)).reshape(x.shape)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, n·C, H, W) → (B, n·heads, H·W, d)."""
        return x.reshape(x.shape[0], -1, self.head_dim, x.shape[2] * x.shape[3]).transpose(2, 3)

    def reparameterize(self):
        if isinstance(self.reduce, nn.Sequential):
            self.reduce.norm1 = absorb_norm(self.reduce.conv, self.reduce.norm1)
            self.reduce.norm2 = absorb_norm(self.reduce.scale, self.reduce.norm2)
        if self.adds_input and is_depthwise(self.local):
            absorb_residual(self.local)
            self.adds_input = False


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention with a bias of the logits; scale d^-0.5.

    On a CPU torch goes a slow way, which also looks for rows without any key, where the bias requires a gradient, even
    if none is asked for.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if takes_cpu(q):
            if torch.is_grad_enabled() and bias.requires_grad:
                return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v
            if not torch.is_grad_enabled():
                bias = bias.detach()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


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
        self.register_parameter("input_scale", None)  # of x, where a LayerScale has been merged

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
