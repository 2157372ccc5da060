"""Position information: DPE, the resized position encoding of OSRA, the log-spaced continuous position bias."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from glocal.layers.conv import convolve, depthwise, is_depthwise, is_plain
from glocal.layers.fusion import absorb_residual
from glocal.layers.graph import leaf
from glocal.ops import (
    by_rows,
    can_keep_results,
    full_precision,
    log_offsets,
    offset_bias,
    recompute,
    resize_bias,
    resized_in_parts,
    written_as_a_whole,
)

# A position bias, (heads, queries, keys), or the table of one, with its rows and columns, as `offset_bias` takes them.
Bias = tuple[Tensor, Tensor | None, Tensor | None]


class DynamicPositionEncoding(nn.Module):
    """DPE: x + depthwise k×k(x) (TransXNet)."""

    def __init__(self, dim: int, kernel_size: int = 7):
        super().__init__()
        self.conv = depthwise(dim, kernel_size)
        self.adds_input = True  # False after merging: the kernels then add it

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
    """The last few tensors, or tuples of them, that a module computed from its parameters alone, by feature size.

    An entry is used as long as the parameters equal a copy of those that it was computed from. Nothing less shows that
    it is fresh: fused optimizers, writes to `.data` and NumPy views of a parameter leave no trace.

    It is not used while training, nor where the ops say that results cannot be kept (`can_keep_results`). Copies and
    pickles of it start empty, and it is no part of the state dict.
    """

    LIMIT = 4

    def __init__(self):
        self.clear()

    def __reduce__(self):
        return SizeCache, ()

    def clear(self):
        # What the entries were computed from, and the entries, together, so that no thread sees those of another.
        self.state: tuple[list[Tensor], dict[tuple[int, ...], Any]] = [], {}

    def get(self, module: nn.Module, sources: list[Tensor], compute: Callable[..., Any], *sizes: int) -> Any:
        """Return `compute(*sizes)`, from the cache if that is safe. sources: the parameters that it depends on."""
        if (
            module.training
            or not can_keep_results(sources)
            or any(type(source) is not nn.Parameter for source in sources)
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
    interpolation over its last two axes if the size differs. For a large map it returns the parameter itself if
    `biased_attention` can resize what it needs. Source: arXiv 2310.19380, section III-B.
    """

    MOST_KEPT = 2**22  # numbers: all at 512 × 512; the attention of larger maps needs hardly more time without

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
            return self.cached(x)

    @torch.jit.ignore
    def cached(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        queries, keys = height * width, self.keys(height, width)
        keeps = not self.training and can_keep_results([self.encoding])
        numbers = self.encoding.shape[1] * queries * keys
        # Each asks first whether a graph is made, in which the size may decide nothing.
        if resized_in_parts(self.encoding, queries, keys, x) and not (keeps and numbers <= self.MOST_KEPT):
            return self.encoding
        if not keeps or queries <= self.encoding.shape[2]:  # a small map's is resized sooner than compared
            return self.resize(height, width)
        return self.cache.get(self, [self.encoding], self.resize, height, width)

    def resize(self, height: int, width: int) -> Tensor:
        return resize_bias(self.encoding, height * width, self.keys(height, width))

    def keys(self, height: int, width: int) -> int:
        return ((height - 1) // self.reduction + 1) * ((width - 1) // self.reduction + 1)


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
    MOST_KEPT = 6_000_000  # numbers of the hidden layer that are kept for its gradient; 5.5 million for 224² pixels

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
    ) -> Bias:
        """Return the bias, (heads, H·W, pooled H · pooled W), None and None; or, if that is large, the table of it, and
        the rows and columns that `offset_bias` takes.

        like: a parameter; the layers compute in its type and on its device. None takes the first layer's.
        """
        if like is None:
            like = self.fc1.weight
        if torch.jit.is_scripting():
            return self.whole(height, width, pooled_height, pooled_width, like), None, None
        else:
            return self.cached(height, width, pooled_height, pooled_width, like)

    @torch.jit.ignore
    def cached(self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor) -> Bias:
        sizes = height, width, pooled_height, pooled_width
        with full_precision(like):  # bfloat16 would round the offsets
            if not self.is_plain():
                return self.bias(*sizes, like)
            sources = [self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias]
            return self.cache.get(self, sources, partial(self.bias, like=self.fc1.weight), *sizes)

    @torch.jit.unused
    def is_plain(self) -> bool:
        """Whether both layers are, so that the bias depends on their parameters alone."""
        return all(is_plain(layer, nn.Linear) and layer.bias is not None for layer in (self.fc1, self.fc2))

    @torch.jit.unused
    def bias(self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor) -> Bias:
        if written_as_a_whole(height * width, pooled_height * pooled_width):
            return self.whole(height, width, pooled_height, pooled_width, like), None, None
        if not self.interpolate:
            return self.table(height, width, pooled_height, pooled_width, like)
        table, rows, columns = self.table(*self.base, like)
        rows = resized_places(rows, table.shape[0], height, pooled_height, like)
        return table, rows, resized_places(columns, table.shape[1], width, pooled_width, like)

    def whole(self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor) -> Tensor:
        if not self.interpolate:
            table, rows, columns = self.table(height, width, pooled_height, pooled_width, like)
            return offset_bias(table, rows, columns)
        base_height, base_width, base_pooled_height, base_pooled_width = self.base
        table, rows, columns = self.table(base_height, base_width, base_pooled_height, base_pooled_width, like)
        bias = offset_bias(table, rows, columns).reshape(1, -1, base_pooled_height, base_pooled_width)
        bias = F.interpolate(bias, size=[pooled_height, pooled_width], mode="bilinear", align_corners=False)
        bias = bias.reshape(self.num_heads, base_height * base_width, -1).transpose(1, 2)
        bias = bias.reshape(1, -1, base_height, base_width)
        bias = F.interpolate(bias, size=[height, width], mode="bilinear", align_corners=False)
        return bias.reshape(self.num_heads, -1, height * width).transpose(1, 2)

    def table(
        self, height: int, width: int, pooled_height: int, pooled_width: int, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The MLP at all distinct offsets, (Y, X, heads), and their places: (H, pooled H) and (W, pooled W)."""
        y, rows = log_offsets(height, pooled_height, self.unit, like)
        x, columns = log_offsets(width, pooled_width, self.unit, like)
        table = self.values(y, x) if torch.jit.is_scripting() else self.values_in_parts(y, x)
        return table, rows.reshape(height, pooled_height), columns.reshape(width, pooled_width)

    @torch.jit.unused
    def values_in_parts(self, y: Tensor, x: Tensor) -> Tensor:
        """As `values`, some rows at a time, as the hidden layer of a large map takes gigabytes."""
        hidden = x.shape[0] * self.hidden_dim
        if not self.is_plain():
            return by_rows(lambda part: self.values(part, x), y, hidden, self.MOST_HIDDEN)
        parameters = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        kept = partial(recompute, numbers=y.shape[0] * hidden, most=self.MOST_KEPT)
        return by_rows(lambda part: kept(values_by_sums, part, x, *parameters), y, hidden, self.MOST_HIDDEN)

    def values(self, y: Tensor, x: Tensor) -> Tensor:
        """The MLP at all pairs of an offset in y and one in x: (offsets y, offsets x, heads)."""
        pairs = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
        return self.fc2(F.relu(self.fc1(pairs)))


def values_by_sums(y: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """`LogCPB.values` with plain layers: the first is a sum of a column for Δy and a column for Δx."""
    hidden = (y.unsqueeze(1) * weight1[:, 0]).unsqueeze(1) + (x.unsqueeze(1) * weight1[:, 1] + bias1)
    return F.linear(F.relu(hidden), weight2, bias2)


def resized_places(places: Tensor, length: int, size: int, pooled: int, like: Tensor) -> Tensor:
    """What a bilinear resize of a bias along one axis of the map, its keys and its queries, takes of a table.

    Args:
        places: (base size, base pooled), the place of each pair among `length` of the table.

    Returns:
        (size, pooled, length): how much of each place.
    """
    whole = F.one_hot(places, length).to(like)  # (base size, base pooled, length)
    of_queries, of_keys = (
        F.interpolate(torch.eye(old).to(like).unsqueeze(0), size=[new], mode="linear", align_corners=False)[0].T
        for old, new in ((places.shape[0], size), (places.shape[1], pooled))
    )
    return torch.einsum("qb,kc,bcl->qkl", of_queries, of_keys, whole)
