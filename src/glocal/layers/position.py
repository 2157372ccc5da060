"""Position information: DPE, the resized position encoding of OSRA, the log-spaced continuous position bias."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor

from glocal.layers.conv import DepthwiseConv2d
from glocal.layers.fusion import absorb_residual
from glocal.ops.dispatch import exporting


class DynamicPositionEncoding(nn.Module):
    """DPE: x + depthwise k×k(x) (TransXNet)."""

    def __init__(self, dim: int, kernel_size: int = 7):
        super().__init__()
        self.conv = DepthwiseConv2d(dim, kernel_size)
        self.adds_input = True  # else the kernels do

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, residual=x) if self.adds_input else self.conv(x)

    def reparameterize(self):
        if self.adds_input:
            absorb_residual(self.conv)
            self.adds_input = False


class SizeCache:
    """The last few tensors that a module computed from its parameters alone, by feature size.

    Not used while training, tracing or compiling, nor where a gradient could be asked for; forgotten when a parameter
    changes. Copies and pickles of it start empty, and it is no part of the state dict.
    """

    LIMIT = 4

    def __init__(self):
        self.clear()

    def __reduce__(self):
        return SizeCache, ()

    def clear(self):
        self.entries: dict[tuple[int, ...], Tensor] = {}
        # What the entries were computed from, kept alive so that no other parameter can get the same address.
        self.seen: list[Tensor] = []
        self.state: list[tuple] = []

    def get(self, module: nn.Module, compute: Callable[..., Tensor], *sizes: int) -> Tensor:
        """Return `compute(*sizes)`, from the cache where it is safe."""
        parameters = list(module.parameters())
        if (
            module.training
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or (torch.is_grad_enabled() and any(p.requires_grad for p in parameters))
            or any(type(p) is not nn.Parameter for p in parameters)  # fake, functional or replicated
            or any(p.is_inference() for p in parameters)  # their changes are not counted
        ):
            return compute(*sizes)
        state = [(p.data_ptr(), p._version, p.dtype, p.device, p.shape, p.stride()) for p in parameters]
        if state != self.state:
            self.clear()
            self.seen, self.state = [p.detach() for p in parameters], state
        value = self.entries.get(sizes)
        if value is None:
            # Outside inference mode, so that a later forward with gradients may use the tensor too.
            with torch.inference_mode(False), torch.no_grad():
                value = compute(*sizes)
            kept = list(self.entries.items())[1 - self.LIMIT :]
            self.entries = dict([*kept, (sizes, value)])
        return value


class SizeCached(nn.Module):
    """A module with a `SizeCache`, which `train()` and `eval()` empty: writes to `.data` leave no trace to notice."""

    def __init__(self):
        super().__init__()
        self.cache = SizeCache()

    def train(self, mode: bool = True):
        self.cache.clear()
        return super().train(mode)


@register_notrace_module
class RelativePosition(SizeCached):
    """A learned bias for every pair of query and reduced key of a stage, shared by the stage's blocks (OSRA).

    Args:
        num_heads: heads of the stage.
        size: (H, W) of the stage at the construction size.
        reduction: spatial reduction of the keys.

    `forward(x)` returns (1, heads, H·W, H_s·W_s) for the (B, C, H, W) map x: the parameter, resized with bicubic
    interpolation over its last two axes where the size differs. Source: arXiv 2310.19380, section III-B.
    """

    def __init__(self, num_heads: int, size: tuple[int, int], reduction: int):
        super().__init__()
        self.reduction = reduction
        keys = math.ceil(size[0] / reduction) * math.ceil(size[1] / reduction)
        self.encoding = nn.Parameter(torch.empty(1, num_heads, size[0] * size[1], keys))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.encoding)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        if torch.jit.is_scripting():
            return self.resize(height, width)
        else:
            return self.cached(height, width)

    @torch.jit.ignore
    def cached(self, height: int, width: int) -> Tensor:
        return self.cache.get(self, self.resize, height, width)

    def resize(self, height: int, width: int) -> Tensor:
        keys = ((height - 1) // self.reduction + 1) * ((width - 1) // self.reduction + 1)
        if exporting():  # the graph shall take other sizes too, and runtimes differ in what they call bicubic
            return _resample(_resample(self.encoding, 2, height * width), 3, keys)
        if self.encoding.shape[2] == height * width and self.encoding.shape[3] == keys:
            return self.encoding
        return resize_bias(self.encoding, height * width, keys)


def _resample(x: Tensor, dim: int, size: int) -> Tensor:
    """Bicubic resize (a = −0.75, half-pixel centres) of one axis, as a sum of four gathers."""
    length = x.shape[dim]
    whole = torch.full([], size, device=x.device, dtype=x.dtype)  # runtimes divide tensors, not symbols
    place = (torch.arange(size, device=x.device, dtype=x.dtype) + 0.5) * length / whole - 0.5
    first = place.floor()
    total = torch.zeros(1, device=x.device, dtype=x.dtype)
    shape = [size if axis == dim else 1 for axis in range(x.ndim)]
    for tap in range(-1, 3):
        distance = magnitude(place - first - tap)
        if tap in (0, 1):
            weight = (1.25 * distance - 2.25) * distance * distance + 1
        else:
            weight = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        index = (first + tap).clamp(0, length - 1).to(torch.int64)
        total = total + x.index_select(dim, index) * weight.view(shape)
    return total


def resize_bias(bias: Tensor, queries: int, keys: int) -> Tensor:
    """Bicubic resize of a (1, heads, queries', keys') position encoding to (1, heads, queries, keys)."""
    return F.interpolate(bias, size=[queries, keys], mode="bicubic", align_corners=False)


@register_notrace_module
class LogCPB(SizeCached):
    """Log-spaced continuous position bias between a map's positions and its pooled tokens.

    A two-layer MLP 2→hidden→heads with ReLU on (Δy, Δx), Δ = (query − key) / (S₀ − 1) · 8 per axis, mapped by
    sign(Δ) · log2(|Δ| + 1) / log2 8. Query coordinates are 0…H−1; key coordinates are their averages under adaptive
    pooling, so twice an offset is an integer: the MLP runs once per distinct offset, not once per pair.

    Args:
        num_heads: heads.
        pretrain_size: S₀, the side of the stage's map in pre-training.
        base: (H, W, pooled H, pooled W) to compute the bias at before resizing it bilinearly to the size at hand
            (keys first, then queries): the published "interpolation". None computes it at the size at hand.

    Source: arXiv 2311.17132, section 3.4 and appendix; after Swin V2, arXiv 2111.09883, eq. 3-4.
    """

    MOST_HIDDEN = 2**24  # numbers of the hidden layer at a time

    def __init__(
        self,
        num_heads: int,
        pretrain_size: int,
        base: tuple[int, int, int, int] | None = None,
        hidden_dim: int = 512,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.unit = 8.0 / max(pretrain_size - 1, 1)
        self.interpolate = base is not None
        self.base = base if base is not None else (1, 1, 1, 1)
        self.fc1 = nn.Linear(2, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, num_heads)

    def forward(self, height: int, width: int, pooled_height: int, pooled_width: int) -> Tensor:
        """Return the bias, (heads, H·W, pooled H · pooled W)."""
        if torch.jit.is_scripting():
            return self.bias(height, width, pooled_height, pooled_width)
        else:
            return self.cached(height, width, pooled_height, pooled_width)

    @torch.jit.ignore
    def cached(self, height: int, width: int, pooled_height: int, pooled_width: int) -> Tensor:
        device = self.fc1.weight.device.type
        full_precision = (
            torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        )
        with full_precision:  # bfloat16 would round the offsets
            return self.cache.get(self, self.bias, height, width, pooled_height, pooled_width)

    def bias(self, height: int, width: int, pooled_height: int, pooled_width: int) -> Tensor:
        if not self.interpolate:
            return self.compute(height, width, pooled_height, pooled_width)
        base_height, base_width, base_pooled_height, base_pooled_width = self.base
        bias = self.compute(base_height, base_width, base_pooled_height, base_pooled_width)
        bias = bias.reshape(1, -1, base_pooled_height, base_pooled_width)
        bias = F.interpolate(bias, size=[pooled_height, pooled_width], mode="bilinear", align_corners=False)
        bias = bias.reshape(self.num_heads, base_height * base_width, -1).transpose(1, 2)
        bias = bias.reshape(1, -1, base_height, base_width)
        bias = F.interpolate(bias, size=[height, width], mode="bilinear", align_corners=False)
        return bias.reshape(self.num_heads, -1, height * width).transpose(1, 2)

    def compute(self, height: int, width: int, pooled_height: int, pooled_width: int) -> Tensor:
        y, y_index = self.axis(height, pooled_height)
        x, x_index = self.axis(width, pooled_width)
        table = self.values(y, x) if torch.jit.is_scripting() else self.values_in_parts(y, x)
        table = table.index_select(0, y_index).index_select(1, x_index)
        table = table.reshape(height, pooled_height, width, pooled_width, self.num_heads)
        return table.permute(4, 0, 2, 1, 3).reshape(self.num_heads, height * width, pooled_height * pooled_width)

    @torch.jit.unused
    def values_in_parts(self, y: Tensor, x: Tensor) -> Tensor:
        """As `values`, some rows at a time, as the hidden layer of a large map takes gigabytes."""
        if torch.compiler.is_compiling():
            return self.values(y, x)
        rows = max(1, self.MOST_HIDDEN // (len(x) * len(self.fc1.weight)))
        return torch.cat([self.values(part, x) for part in y.split(rows)])

    def values(self, y: Tensor, x: Tensor) -> Tensor:
        """The MLP at all pairs of an offset in y and one in x: (offsets y, offsets x, heads)."""
        # The first layer is a sum of a column for Δy and a column for Δx.
        weight = self.fc1.weight
        hidden = (y.unsqueeze(1) * weight[:, 0]).unsqueeze(1) + (x.unsqueeze(1) * weight[:, 1] + self.fc1.bias)
        return self.fc2(F.relu(hidden))

    def axis(self, size: int, pooled: int) -> tuple[Tensor, Tensor]:
        """Distinct log-spaced offsets along one axis, and the index of each (query, key) pair, (size·pooled,)."""
        device = self.fc1.weight.device
        key = torch.arange(pooled, device=device)
        start, end = key * size // pooled, ((key + 1) * size + pooled - 1) // pooled
        doubled = 2 * torch.arange(size, device=device).unsqueeze(1) - (start + end - 1)  # 2·(query − key)
        if not exporting() and size % pooled == 0:  # equal windows: all doubled offsets have the same parity
            reach, step = 2 * size - 1 - size // pooled, 2
        else:
            reach, step = 2 * size - 2, 1
        index = torch.div(doubled + reach, step, rounding_mode="floor").flatten()
        dtype = torch.float64 if self.fc1.weight.dtype == torch.float64 else torch.float32
        offset = torch.arange(-reach, reach + 1, step, device=device, dtype=dtype) * (0.5 * self.unit)
        offset = offset.sign() * (magnitude(offset) + 1).log2() / 3.0  # log2 8
        return offset.to(self.fc1.weight.dtype), index


def magnitude(x: Tensor) -> Tensor:
    """|x|. Where OpenVINO knows x before it runs, its abs overwrites x, for all who use it."""
    return torch.maximum(x, -x)
