"""Aggregated attention on a CPU, as matrix products.

The map is cut into tiles, whose queries meet the keys of their tile and of the positions around it. Nine of these
products are used for each query; that is cheaper than nine passes over the map.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops.aggregated_attention.reference import Inputs, normalised
from glocal.ops.offset_bias.parts import from_table
from glocal.ops.recompute.cpu import recompute
from glocal.ops.tiled_attention import known_attention, tiled_attention

TILE = 7  # side; a larger one wastes more products, a smaller one makes smaller matrices
WHOLE = 64  # positions: a map with no more is one tile


def aggregated_attention(inputs: Inputs) -> Tensor:
    """With all logits at once."""
    inputs = normalised(inputs)
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias = inputs
    heads, _, height, width = q.shape[1:]
    pooled, tile = pooled_k.shape[-1], _tile(height, width)
    outside = _outside(height, width, tile, q.device)  # (M, 9), M positions: those of whole tiles, tile by tile
    length = (9 + pooled - outside.sum(1, keepdim=True)).to(q.dtype)  # N: keys that each query really has

    q = _to_tiles(q, tile)  # (B, heads, tiles, queries, d)
    scale = temperature.view(heads, 1, 1) * length.log()
    scaled_q = torch.addcmul(query_embedding.unsqueeze(1) * scale, q.flatten(2, 3), scale)  # (B, heads, M, d)
    products = scaled_q.view(q.shape) @ _to_windows(k, tile).transpose(-2, -1)  # (B, heads, tiles, queries, keys)
    local_bias = local_bias.unsqueeze(1).masked_fill(outside, float("-inf"))  # (heads, M, 9)
    pooled_bias = _to_tiles(pooled_bias.unflatten(2, (height, width)).unsqueeze(0), tile).flatten(2, 3)
    logits = _Logits.apply(products, local_bias, scaled_q @ pooled_k, pooled_bias, tile)  # (B, heads, M, 9 + P)
    local_attention, pooled_attention = logits.softmax(dim=3).split([9, pooled], dim=3)
    pooled_out = pooled_attention @ pooled_v.transpose(-2, -1)
    out = _local_values(local_attention, q, v, tokens, token_bias, tile) + pooled_out.view(q.shape)
    return _from_tiles(out, tile, height, width)


def with_table(inputs: Inputs, rows: Tensor, columns: Tensor) -> Tensor:
    """With the table of the bias in its place, attention to the pooled keys some rows at a time.

    Only the arguments, the pooled keys' part of the result and the softmax's denominators are kept for the gradients.
    """
    with torch.no_grad():
        known = tiled_attention(*_to_pooled_keys(normalised(inputs)), from_table(rows, columns))
    return recompute(_with_known, *inputs, rows, columns, *known)


def _with_known(*tensors: Tensor) -> Tensor:
    """Join attention to the neighbours with that to the pooled keys, which is known already, in one softmax."""
    inputs, (rows, columns, *known) = normalised(Inputs(*tensors[:11])), tensors[11:]
    height, width = inputs.q.shape[3:]
    tile = _tile(height, width)
    query = _to_pooled_keys(inputs)
    bias = from_table(rows, columns)
    pooled_out, pooled_sum = known_attention(*query, bias, *known)  # (B, heads, H, W, d), (B, heads, H, W)
    pooled_sum = _to_tiles(pooled_sum.unsqueeze(2), tile)  # (B, heads, tiles, queries, 1)
    local_logits = _local_logits(query[0].permute(0, 1, 4, 2, 3), inputs.k, inputs.local_bias, tile)
    del query  # large, if no gradient needs it
    whole_sum = torch.logaddexp(local_logits.logsumexp(4, keepdim=True), pooled_sum)
    local_attention = (local_logits - whole_sum).exp().flatten(2, 3)
    q = _to_tiles(inputs.q, tile)
    out = _local_values(local_attention, q, inputs.v, inputs.tokens, inputs.token_bias, tile)
    share = _from_tiles((pooled_sum - whole_sum).exp(), tile, height, width)
    return torch.addcmul(_from_tiles(out, tile, height, width), pooled_out.permute(0, 1, 4, 2, 3), share)


def _to_pooled_keys(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The scaled queries, (B, heads, H, W, d), pooled keys and values, (B, heads, P, d), and the table."""
    q, pooled_k, pooled_v = inputs.q, inputs.pooled_k, inputs.pooled_v
    heads, _, height, width = q.shape[1:]
    outside = _outside(height, width, (height, width), q.device).sum(1).view(height, width)
    length = (9 + pooled_k.shape[-1] - outside).to(q.dtype)
    scale = inputs.temperature.view(heads, 1, 1, 1) * length.log()
    scaled_q = (q + inputs.query_embedding[:, :, None, None]) * scale
    return scaled_q.permute(0, 1, 3, 4, 2), pooled_k.transpose(2, 3), pooled_v.transpose(2, 3), inputs.pooled_bias


def _local_logits(scaled_q: Tensor, k: Tensor, local_bias: Tensor, tile: tuple[int, int]) -> Tensor:
    """(B, heads, tiles, queries, 9)."""
    height, width = k.shape[3:]
    scaled_q = _to_tiles(scaled_q, tile)
    outside = _outside(height, width, tile, k.device).view(*scaled_q.shape[2:4], 9)
    local_bias = local_bias[:, None, None].masked_fill(outside, float("-inf"))  # (heads, tiles, queries, 9)
    return _Pick.apply(scaled_q @ _to_windows(k, tile).transpose(-2, -1), tile) + local_bias


def _local_values(
    local_attention: Tensor, q: Tensor, v: Tensor, tokens: Tensor, token_bias: Tensor, tile: tuple[int, int]
) -> Tensor:
    """The neighbours' part of the result, (B, heads, tiles, queries, d), from attention (B, heads, M, 9) and the
    queries of the tiles."""
    positional = q.flatten(2, 3) @ tokens + token_bias.unsqueeze(1)  # (B, heads, M, 9)
    weights = (local_attention + positional).view(*q.shape[:4], 9)
    return _Place.apply(weights, tile) @ _to_windows(v, tile)


def _tile(height: int, width: int) -> tuple[int, int]:
    return (height, width) if height * width <= WHOLE else (_side(height), _side(width))


def _side(length: int) -> int:
    """The side of a tile, about TILE, that leaves little of the last one empty."""
    return -(-length // round(length / TILE)) if length > TILE else length


def _outside(height: int, width: int, tile: tuple[int, int], device: torch.device) -> Tensor:
    """(M, 9) bool: the neighbour of the position, in row-major order, falls outside the map."""
    places = torch.arange(height * width, device=device).view(1, 1, 1, height, width)
    places = _to_tiles(places, tile).view(-1, 1)
    steps = torch.arange(9, device=device)
    row, column = places // width + steps // 3 - 1, places % width + steps % 3 - 1
    return (row < 0) | (row >= height) | (column < 0) | (column >= width)


def _to_tiles(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """(B, heads, d, H, W) → (B, heads, tiles, positions of a tile, d), zeros beyond the edges."""
    batch, heads, d = x.shape[:3]
    below, right = -x.shape[3] % tile[0], -x.shape[4] % tile[1]
    if below or right:
        x = F.pad(x, [0, right, 0, below])
    x = x.unflatten(4, (-1, tile[1])).unflatten(3, (-1, tile[0])).permute(0, 1, 3, 5, 4, 6, 2)
    return x.reshape(batch, heads, -1, tile[0] * tile[1], d)


def _from_tiles(x: Tensor, tile: tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of `_to_tiles`; in memory the channels of a position stay together."""
    batch, heads, _, _, d = x.shape
    rows, columns = -(-height // tile[0]), -(-width // tile[1])
    x = x.view(batch, heads, rows, columns, *tile, d).permute(0, 2, 4, 3, 5, 1, 6)
    x = x.reshape(batch, rows * tile[0], columns * tile[1], heads, d)[:, :height, :width]
    return x.contiguous().permute(0, 3, 4, 1, 2)


def _to_windows(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """(B, heads, d, H, W) → (B, heads, tiles, positions of a tile and around it, d), zeros beyond the edges."""
    x = x.permute(0, 3, 4, 1, 2)  # padded in the order in which the windows are copied
    x = F.pad(x, [0, 0, 0, 0, 1, 1 - x.shape[2] % -tile[1], 1, 1 - x.shape[1] % -tile[0]])
    return _Windows.apply(x, tile).flatten(4, 5).flatten(2, 3)


class _OfTiles(torch.autograd.Function):
    """A linear function of a tensor (B, …) and the sides of a tile; a subclass has its `forward` and `backward`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor):
        ctx.tile = inputs[1]

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], x: Tensor, tile: tuple[int, int]) -> tuple[Tensor, int]:
        """What torch.func maps over becomes a part of the batch."""
        x = x.movedim(in_dims[0], 0)
        return cls.apply(x.flatten(0, 1), tile).unflatten(0, x.shape[:2]), 0


class _Windows(_OfTiles):
    """(B, H + 2, W + 2, heads, d), H and W of whole tiles → (B, heads, rows, columns, y, x, d): the windows' copies."""

    @staticmethod
    def forward(x: Tensor, tile: tuple[int, int]) -> Tensor:
        x = x.unfold(1, tile[0] + 2, tile[0]).unfold(2, tile[1] + 2, tile[1])
        return x.permute(0, 3, 1, 2, 5, 6, 4).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Overlaps.apply(grad, ctx.tile), None


class _Overlaps(_OfTiles):
    """The transpose of `_Windows`: at each position the sum of what the windows have there."""

    @staticmethod
    def forward(x: Tensor, tile: tuple[int, int]) -> Tensor:
        batch, heads, rows, columns, tall, wide, d = x.shape
        # The last two rows and columns of a window lie in the next window, if it is not the last.
        down = tile[0] if rows > 1 else tall
        across = tile[1] if columns > 1 else wide
        out = x.new_zeros(batch, (rows + 1) * down, (columns + 1) * across, heads, d)
        x = x.permute(0, 2, 4, 3, 5, 1, 6)  # (B, rows, y, columns, x, heads, d)
        for top, bottom in ((0, down), (down, tall)):
            for left, right in ((0, across), (across, wide)):
                whole = out[:, top : top + rows * down, left : left + columns * across]
                whole = whole.unflatten(2, (columns, across)).unflatten(1, (rows, down))
                whole[:, :, : bottom - top, :, : right - left] += x[:, :, top:bottom, :, left:right]
        height, width = (rows - 1) * down + tall, (columns - 1) * across + wide
        return out[:, :height, :width]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Windows.apply(grad, ctx.tile), None


class _Logits(torch.autograd.Function):
    """The logits of each query, (B, heads, M, 9 + P): first with its neighbours, then with the pooled keys.

    The first are picked from products (…, queries, keys), the others are (B, heads, M, P). Their biases, (heads, M, 9)
    and (1, heads, M, P), are added.
    """

    @staticmethod
    def forward(products: Tensor, bias: Tensor, pooled: Tensor, pooled_bias: Tensor, tile: tuple[int, int]) -> Tensor:
        dtype = torch.promote_types(torch.result_type(products, bias), torch.result_type(pooled, pooled_bias))
        out = pooled.new_empty(*pooled.shape[:3], 9 + pooled.shape[3], dtype=dtype)
        near = _neighbours(products.contiguous(), tile)
        local = out[..., :9].view(near.shape)
        torch.add(near, bias.view(near.shape[1:]), out=local)
        torch.add(pooled, pooled_bias, out=out[..., 9:])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor):
        products, ctx.tile = inputs[0], inputs[4]
        ctx.shape = products.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        local, pooled = grad[..., :9], grad[..., 9:]
        for_products, for_bias, for_pooled, for_pooled_bias, _ = ctx.needs_input_grad
        return (
            _Place.apply(local.reshape(*ctx.shape[:-1], 9), ctx.tile) if for_products else None,
            local.sum(0) if for_bias else None,
            pooled if for_pooled else None,
            pooled.sum(0, keepdim=True) if for_pooled_bias else None,
            None,
        )


def _neighbours(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """A view, (…, rows, columns, 3, 3), of the products (…, queries, keys) of a tile: a query with its neighbours."""
    across = tile[1] + 2
    keys = (tile[0] + 2) * across
    strides = tile[1] * keys + across, keys + 1, across, 1
    return x.as_strided((*x.shape[:-2], *tile, 3, 3), (*x.stride()[:-2], *strides), x.storage_offset())


class _Pick(_OfTiles):
    """(…, queries, keys) → (…, queries, 9): the products of each query with its neighbours."""

    @staticmethod
    def forward(x: Tensor, tile: tuple[int, int]) -> Tensor:
        return _neighbours(x.contiguous(), tile).reshape(*x.shape[:-1], 9)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Place.apply(grad, ctx.tile), None


class _Place(_OfTiles):
    """(…, queries, 9) → (…, queries, keys): the transpose of `_Pick`, zero elsewhere."""

    @staticmethod
    def forward(x: Tensor, tile: tuple[int, int]) -> Tensor:
        out = x.new_zeros(*x.shape[:-1], (tile[0] + 2) * (tile[1] + 2))
        _neighbours(out, tile).copy_(x.view(*x.shape[:-2], *tile, 3, 3))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Pick.apply(grad, ctx.tile), None
