"""Deformable attention and the encoder made of it, which Mask2Former and DINO share (arXiv 2010.04159)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glocal.layers.places import extent
from glocal.ops import deformable_attention


class DeformableAttention(nn.Module):
    """Each query reads a few places of all maps, which it chooses itself (arXiv 2010.04159, equation 3).

    `forward(query, value, reference, sizes, padding)` gives (B, Q, dim):

    query: (B, Q, dim), with its position added.
    value: (B, N, dim), the positions of all maps, one map after the other; sizes: (h, w) of each map.
    reference: (B or 1, Q, levels or 1, 2 or 4), where a query is: (x, y), from which it looks away by cells of each
        map, or a box (x, y, width, height), of which its outermost point in the start is at the border; 0 and 1 are
        the borders of the map.
    padding: (B, N), true where a position is not of the image: its value is zero. None: all are.
    """

    def __init__(self, dim: int, num_heads: int, levels: int, points: int):
        super().__init__()
        self.num_heads, self.levels, self.points = num_heads, levels, points
        self.offsets = nn.Linear(dim, num_heads * levels * points * 2)
        self.weights = nn.Linear(dim, num_heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def reset_parameters(self):
        """Each head starts with points in a direction of its own, and with equal weights."""
        nn.init.zeros_(self.offsets.weight)
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        start = directions.view(self.num_heads, 1, 1, 2) * steps
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.weights.weight)
        for layer in (self.value, self.proj):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.weights, self.value, self.proj):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        batch, count, dim = query.shape
        shape = batch, count, self.num_heads, self.levels, self.points
        values = self.value(value)
        if padding is not None:
            values = values.masked_fill(padding.unsqueeze(-1), 0.0)
        values = values.view(batch, value.shape[1], self.num_heads, dim // self.num_heads)
        weights = self.weights(query).view(batch, count, self.num_heads, -1).softmax(-1).view(shape)
        # per level, as the sizes of a graph may be open
        offsets = self.offsets(query).view(*shape, 2).unbind(3)
        references = reference.unbind(2) if reference.shape[2] > 1 else [reference.squeeze(2)] * self.levels
        places = [
            self._places(at[:, :, None, None], offset, size)
            for at, offset, size in zip(references, offsets, sizes, strict=True)
        ]
        read = deformable_attention(values, sizes, torch.stack(places, 3), weights)
        return self.proj(read.to(values.dtype))

    def _places(self, at: Tensor, offset: Tensor, size: tuple[int, int]) -> Tensor:
        """Where the queries look in one map, (B, Q, heads, points, 2)."""
        if at.shape[-1] == 2:
            return at + offset / extent(*size, offset)
        return at[..., :2] + offset * at[..., 2:] * (0.5 / self.points)


class DeformableEncoderLayer(nn.Module):
    """Deformable attention among the positions of all maps and a feed-forward network, each followed by its norm."""

    def __init__(self, dim: int, num_heads: int, levels: int, points: int, hidden: int):
        super().__init__()
        self.attention = DeformableAttention(dim, num_heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = feed_forward(dim, hidden)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """x, position: (B, N, dim); reference, sizes, padding: see `DeformableAttention`."""
        x = self.norm1(x + self.attention(x + position, x, reference, sizes, padding))
        return self.norm2(x + self.ffn(x))


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
