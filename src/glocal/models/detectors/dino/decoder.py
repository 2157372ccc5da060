"""DINO's decoder: queries with boxes read the memory and move their boxes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glocal.layers.deformable_attention import DeformableAttention, feed_forward
from glocal.layers.places import sine_features
from glocal.models.detectors.boxes import upcast
from glocal.models.detectors.dino.box_logits import logit
from glocal.models.detectors.dino.positions import Tokens

MOVED_EPS = 1e-3  # of the logit of a box that a layer moves


class Decoded(NamedTuple):
    """hidden: (B, Q, dim) of each layer. references: (B, Q, 4), boxes (cx, cy, w, h) relative to the image, one more
    than layers: those that the first layer got, and those that each layer made; gradients pass through one layer."""

    hidden: list[Tensor]
    references: list[Tensor]


class DecoderLayer(nn.Module):
    """Queries attend to each other, then to places of the memory; a feed-forward network; each followed by its norm."""

    def __init__(self, dim: int, num_heads: int, levels: int, points: int, hidden: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, num_heads, levels, points)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = feed_forward(dim, hidden)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, memory: Tensor, tokens: Tokens, hidden: Tensor | None
    ) -> Tensor:
        """x, position: (B, Q, dim); reference: (B, Q, levels, 4); hidden: (Q, Q), true where not to look."""
        query = x + position
        x = self.norm1(x + self.self_attn(query, query, x, attn_mask=hidden, need_weights=False)[0])
        x = self.norm2(x + self.cross_attn(x + position, memory, reference, tokens.sizes, tokens.padding))
        return self.norm3(x + self.ffn(x))


class Decoder(nn.Module):
    """Layers; after each, a regressor moves the queries' boxes, from which the next layer reads (arXiv 2203.03605)."""

    def __init__(self, depth: int, dim: int, num_heads: int, levels: int, points: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, levels, points, hidden) for _ in range(depth))
        self.position = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        reference: Tensor,
        memory: Tensor,
        tokens: Tokens,
        regressors: Sequence[nn.Module],
        hidden: Tensor | None = None,
    ) -> Decoded:
        """x: (B, Q, dim), the queries' content; reference: (B, Q, 4); hidden: (Q, Q), true where not to look."""
        outputs, references = [], [reference]
        for layer, regressor in zip(self.layers, regressors, strict=True):
            reference = references[-1].detach()
            by_level = reference.unsqueeze(2) * torch.cat((tokens.shares, tokens.shares), -1).unsqueeze(1)
            position = self.position(box_code(by_level[:, :, 0], x.shape[2] // 2).to(x.dtype))
            x = layer(x, position, by_level, memory, tokens, hidden)
            references.append((upcast(regressor(x)) + logit(reference, MOVED_EPS)).sigmoid())
            outputs.append(self.norm(x))
        return Decoded(outputs, references)


def box_code(boxes: Tensor, dim: int) -> Tensor:
    """Sines and cosines of boxes (…, 4) as cx, cy, w, h: (…, 4 · dim), of cy, cx, w, h in this order."""
    x, y, width, height = (boxes * (2 * math.pi)).unbind(-1)
    return sine_features(torch.stack((y, x, width, height), -1), dim).flatten(-2)
