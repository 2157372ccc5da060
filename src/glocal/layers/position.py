"""Position information: DPE, the resized position encoding of OSRA, the log-spaced continuous position bias."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, is_depthwise, is_plain
from glocal.layers.fusion import absorb_residual
from glocal.layers.graph import leaf
from glocal.ops.dispatch import exporting, tracing


class DynamicPositionEncoding(nn.Module):
    """DPE: x + depthwise k×k(x) (TransXNet)."""

    def __init__(self, dim: int, kernel_size: int = 7):
        super().__init__()
        self.conv = depthwise(dim, kernel_size)
        self.adds_input = True  # else the kernels do

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return x + self.conv(x) if self.adds_input else self.conv(x)
        else:
            return convolve(self.conv, x, residual=x if self.adds_input else None)

    def reparameterize(self):
        if self.adds_input and is_depthwise(self.conv):
            absorb_residual(self.conv)
            self.adds_input = False


class SizeCache:
    """The last few tensors that a module computed from its parameters alone, by feature size.

    An entry is used as long as the parameters hold the very numbers that it was computed from, of which there is a
    copy. Nothing less shows that it is fresh: fused optimizers, writes to `.data` and NumPy views of it leave no trace.

    Not used while training, tracing or compiling, nor where a gradient could be asked for; and on a CPU only, as other
    devices would have to wait for the comparison. Copies and pickles of it start empty, and it is no part of the state
    dict.
    """

    LIMIT = 4

    def __init__(self):
        self.clear()

    def __reduce__(self):
        return SizeCache, ()

    def clear(self):
        # What the entries were computed from, and the entries, together, so that no thread sees those of another.
        self.state: tuple[list[Tensor], dict[tuple[int, ...], Tensor]] = [], {}

    def get(self, module: nn.Module, sources: list[Tensor], compute: Callable[..., Tensor], *sizes: int) -> Tensor:
        """Return `compute(*sizes)`, from the cache where it is safe. sources: all that it depends on besides."""
        if (
            module.training
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or torch._C._functorch.peek_interpreter_stack()
            or (torch.is_grad_enabled() and any(source.requires_grad for source in sources))
            or any(type(source) is not nn.Parameter or not source.is_cpu for source in sources)
        ):
            return compute(*sizes)
        # Outside inference mode, so that a later forward with gradients may use the tensors too.
        with torch.inference_mode(False), torch.no_grad():
            copies, entries = self.state
            if not _same(sources, copies):
                copies, entries = self.state = [source.clone() for source in sources], {}
            value = entries.get(sizes)
            if value is None:
                value = compute(*sizes)
                if _same(sources, copies):  # else they are being changed
                    kept = list(entries.items())[1 - self.LIMIT :]
                    self.state = copies, dict([*kept, (sizes, value)])
        return value


def _same(tensors: list[Tensor], copies: list[Tensor]) -> bool:
    return len(tensors) == len(copies) and all(
        tensor.dtype == copy.dtype and torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True)
    )


class SizeCached(nn.Module):
    """A module with a `SizeCache`, which is emptied by `train()` and `eval()`: training has no use for it."""

    def __init__(self):
        super().__init__()
        self.cache = SizeCache()

    def train(self, mode: bool = True):
        self.cache.clear()
        return super().train(mode)


@leaf
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
        if height * width <= self.encoding.shape[2]:  # the parameter itself, or sooner resized than compared
            return self.resize(height, width)
        return self.cache.get(self, [self.encoding], self.resize, height, width)

    def resize(self, height: int, width: int) -> Tensor:
        keys = ((height - 1) // self.reduction + 1) * ((width - 1) // self.reduction + 1)
        if exporting():  # the graph shall take other sizes too, and runtimes differ in what they call bicubic
            return _resample(_resample(self.encoding, 2, height * width), 3, keys)
        if not tracing() and self.encoding.shape[2] == height * width and self.encoding.shape[3] == keys:
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


@leaf
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
        self.num_heads, self.hidden_dim = num_heads, hidden_dim
        self.unit = 8.0 / max(pretrain_size - 1, 1)
        self.interpolate = base is not None
        self.base = base if base is not None else (1, 1, 1, 1)
        self.fc1 = nn.Linear(2, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, num_heads)

    def forward(
        self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor | None = None
    ) -> Tensor:
        """Return the bias, (heads, H·W, pooled H · pooled W).

        like: a parameter whose type and device the layers shall have; None takes the first layer's.
        """
        if like is None:
            like = self.fc1.weight
        if torch.jit.is_scripting():
            return self.bias(height, width, pooled_height, pooled_width, like)
        else:
            return self.cached(height, width, pooled_height, pooled_width, like)

    @torch.jit.ignore
    def cached(self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor) -> Tensor:
        sizes = height, width, pooled_height, pooled_width
        device = like.device.type
        full_precision = (
            torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        )
        with full_precision:  # bfloat16 would round the offsets
            if not self.is_plain():
                return self.bias(*sizes, like)
            sources = [self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias]
            return self.cache.get(self, sources, partial(self.bias, like=self.fc1.weight), *sizes)

    @torch.jit.unused
    def is_plain(self) -> bool:
        """Whether both layers are, so that the bias depends on their parameters alone."""
        return all(is_plain(layer, nn.Linear) and layer.bias is not None for layer in (self.fc1, self.fc2))

    def bias(self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor) -> Tensor:
        if not self.interpolate:
            return self.compute(height, width, pooled_height, pooled_width, like)
        base_height, base_width, base_pooled_height, base_pooled_width = self.base
        bias = self.compute(base_height, base_width, base_pooled_height, base_pooled_width, like)
        bias = bias.reshape(1, -1, base_pooled_height, base_pooled_width)
        bias = F.interpolate(bias, size=[pooled_height, pooled_width], mode="bilinear", align_corners=False)
        bias = bias.reshape(self.num_heads, base_height * base_width, -1).transpose(1, 2)
        bias = bias.reshape(1, -1, base_height, base_width)
        bias = F.interpolate(bias, size=[height, width], mode="bilinear", align_corners=False)
        return bias.reshape(self.num_heads, -1, height * width).transpose(1, 2)

    def compute(self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor) -> Tensor:
        y, y_index = self.axis(height, pooled_height, like)
        x, x_index = self.axis(width, pooled_width, like)
        table = self.values(y, x) if torch.jit.is_scripting() else self.values_in_parts(y, x)
        table = table.index_select(0, y_index).index_select(1, x_index)
        table = table.reshape(height, pooled_height, width, pooled_width, self.num_heads)
        return table.permute(4, 0, 2, 1, 3).reshape(self.num_heads, height * width, pooled_height * pooled_width)

    @torch.jit.unused
    def values_in_parts(self, y: Tensor, x: Tensor) -> Tensor:
        """As `values`, some rows at a time, as the hidden layer of a large map takes gigabytes."""
        values = self.values_by_sums if self.is_plain() else self.values
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return values(y, x)
        rows = max(1, self.MOST_HIDDEN // (len(x) * self.hidden_dim))
        return torch.cat([values(part, x) for part in y.split(rows)])

    def values(self, y: Tensor, x: Tensor) -> Tensor:
        """The MLP at all pairs of an offset in y and one in x: (offsets y, offsets x, heads)."""
        pairs = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
        return self.fc2(F.relu(self.fc1(pairs)))

    @torch.jit.unused
    def values_by_sums(self, y: Tensor, x: Tensor) -> Tensor:
        """The same: the first layer is a sum of a column for Δy and a column for Δx."""
        weight = self.fc1.weight
        hidden = (y.unsqueeze(1) * weight[:, 0]).unsqueeze(1) + (x.unsqueeze(1) * weight[:, 1] + self.fc1.bias)
        return self.fc2(F.relu(hidden))

    def axis(self, size: int, pooled: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct log-spaced offsets along one axis, and the index of each (query, key) pair, (size·pooled,)."""
        device = like.device
        key = torch.arange(pooled, device=device)
        start, end = key * size // pooled, ((key + 1) * size + pooled - 1) // pooled
        doubled = 2 * torch.arange(size, device=device).unsqueeze(1) - (start + end - 1)  # 2·(query − key)
        if not tracing() and size % pooled == 0:  # equal windows: all doubled offsets have the same parity
            reach, step = 2 * size - 1 - size // pooled, 2
        else:
            reach, step = 2 * size - 2, 1
        index = torch.div(doubled + reach, step, rounding_mode="floor").flatten()
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        offset = torch.arange(-reach, reach + 1, step, device=device, dtype=dtype) * (0.5 * self.unit)
        offset = offset.sign() * (magnitude(offset) + 1).log2() / 3.0  # log2 8
        return offset.to(like.dtype), index


def magnitude(x: Tensor) -> Tensor:
    """|x|. Where OpenVINO knows x before it runs, its abs overwrites x, for all who use it."""
    return torch.maximum(x, -x)
