"""Mask2Former (arXiv 2112.01527): masks of learned queries; the head of TransNeXt's published results.

A pixel decoder of deformable attention brings the maps to one width; nine decoder layers read them with queries; each
query gives a class and a mask. Semantic, instance and panoptic results are made of the same queries.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.models.heads.resize import resize_to
from glocal.ops import deformable_attention

NORM_GROUPS = 32
DEFORMABLE_POINTS = 4


class QueryPredictions(NamedTuple):
    """What the queries say. class_logits: (B, queries, classes + 1), the last for nothing; mask_logits: (B, queries,
    ⌈H/4⌉, ⌈W/4⌉)."""

    class_logits: Tensor
    mask_logits: Tensor


class PixelMaps(NamedTuple):
    """mask_feature: (B, C, H, W) at stride 4. memory: maps at strides 32, 16 and 8."""

    mask_feature: Tensor
    memory: list[Tensor]


def sine_position(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """Sines and cosines of the normalised place, (1, dim, H, W): half of the channels for y, then half for x.

    Source: arXiv 2005.12872, appendix A.4; the places run from 1/n to 1, times 2π.
    """
    half = dim // 2
    dtype = torch.promote_types(like.dtype, torch.float32)
    index = torch.arange(half, device=like.device, dtype=dtype)
    period = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:  # (length, half), sine and cosine in turns
        place = torch.arange(1, length + 1, device=like.device, dtype=dtype)
        # The last place is the length. In graphs for any size, not all runtimes make a float of a size.
        angle = (place * (2 * math.pi) / (place[-1:] + 1e-6)).unsqueeze(1) / period
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), 2).flatten(1)

    y = axis(height).t().reshape(1, half, height, 1).expand(1, half, height, width)
    x = axis(width).t().reshape(1, half, 1, width).expand(1, half, height, width)
    return torch.cat((y, x), 1).to(like.dtype)


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C), row by row."""
    return x.flatten(2).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each token reads a few places of all maps, which it chooses itself (arXiv 2010.04159, equation 3).

    `forward(x, position, reference, sizes)`: x (B, N, dim), the positions of all maps; position, of the same shape, is
    added for the places and weights alone; reference (1, N, 2), the (x, y) of each token.
    """

    def __init__(self, dim: int, num_heads: int, levels: int, points: int):
        super().__init__()
        self.num_heads, self.levels, self.points = num_heads, levels, points
        self.offsets = nn.Linear(dim, num_heads * levels * points * 2)
        self.weights = nn.Linear(dim, num_heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def reset_parameters(self):
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

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        batch, count, dim = x.shape
        shape = batch, count, self.num_heads, self.levels, self.points
        values = self.value(x).view(batch, count, self.num_heads, dim // self.num_heads)
        query = x + position
        weights = self.weights(query).view(batch, count, self.num_heads, -1).softmax(-1).view(shape)
        # per level, as the sizes of a graph may be open
        offsets = self.offsets(query).view(*shape, 2).unbind(3)
        places = [
            reference.view(1, -1, 1, 1, 2) + offset / extent(height, width, offset)
            for offset, (height, width) in zip(offsets, sizes, strict=True)
        ]
        return self.proj(deformable_attention(values, sizes, torch.stack(places, 3), weights))


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))


class EncoderLayer(nn.Module):
    """Deformable attention and a feed-forward network, each followed by its norm."""

    def __init__(self, dim: int, num_heads: int, levels: int, hidden: int):
        super().__init__()
        self.attention = DeformableAttention(dim, num_heads, levels, DEFORMABLE_POINTS)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = feed_forward(dim, hidden)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        x = self.norm1(x + self.attention(x, position, reference, sizes))
        return self.norm2(x + self.ffn(x))


class ConvGroupNorm(nn.Sequential):
    """Convolution that keeps the size, and GroupNorm."""

    def __init__(self, in_dim: int, dim: int, kernel_size: int, bias: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, padding=kernel_size // 2, bias=bias)
        self.norm = nn.GroupNorm(NORM_GROUPS, dim)


class PixelDecoder(nn.Module):
    """The maps at strides 8, 16, 32 made aware of each other, and the map of the masks at stride 4.

    Args:
        dims: channels of the four maps, fine to coarse.
        dim: channels inside and out.
        num_heads, depth, hidden: of the encoder.
    """

    def __init__(self, dims: Sequence[int], dim: int, num_heads: int, depth: int, hidden: int):
        super().__init__()
        coarse = list(reversed(dims[1:]))
        self.inputs = nn.ModuleList(ConvGroupNorm(channels, dim, 1, bias=True) for channels in coarse)
        self.level_embed = nn.Parameter(torch.empty(len(coarse), dim))
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, len(coarse), hidden) for _ in range(depth))
        self.lateral = ConvGroupNorm(dims[0], dim, 1, bias=False)
        self.output = ConvGroupNorm(dim, dim, 3, bias=False)
        self.mask_feature = nn.Conv2d(dim, dim, 1)

    def reset_parameters(self):
        for block in self.inputs:
            nn.init.xavier_uniform_(block.conv.weight)
            nn.init.zeros_(block.conv.bias)
        for conv in (self.lateral.conv, self.output.conv, self.mask_feature):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.mask_feature.bias)
        nn.init.normal_(self.level_embed)
        for layer in self.layers:
            xavier_normal(layer)
            layer.attention.reset_parameters()

    def forward(self, maps: Sequence[Tensor]) -> PixelMaps:
        inputs = [block(x) for block, x in zip(self.inputs, reversed(maps[1:]), strict=True)]  # coarse to fine
        sizes = [(x.shape[2], x.shape[3]) for x in inputs]
        dim = inputs[0].shape[1]
        position = torch.cat(
            [
                tokens(sine_position(height, width, dim, inputs[0])) + embed
                for (height, width), embed in zip(sizes, self.level_embed, strict=True)
            ],
            1,
        )
        reference = torch.cat([centres(height, width, inputs[0]) for height, width in sizes], 1)
        x = torch.cat([tokens(y) for y in inputs], 1)
        for layer in self.layers:
            x = layer(x, position, reference, sizes)
        memory, start = [], 0
        for height, width in sizes:
            part = x[:, start : start + height * width]
            memory.append(part.transpose(1, 2).reshape(-1, dim, height, width))
            start += height * width
        fine = self.lateral(maps[0])
        fine = F.relu(self.output(fine + resize_to(memory[-1], fine.shape[2:])))
        return PixelMaps(self.mask_feature(fine), memory)


def centres(height: int, width: int, like: Tensor) -> Tensor:
    """The (x, y) of the centres of a map's positions, row by row, (1, H·W, 2)."""
    y = torch.arange(height, device=like.device, dtype=like.dtype) + 0.5
    x = torch.arange(width, device=like.device, dtype=like.dtype) + 0.5
    places = torch.stack((x.expand(height, width), y.unsqueeze(1).expand(height, width)), -1)
    return (places / extent(height, width, like)).reshape(1, -1, 2)


def extent(height: int, width: int, like: Tensor) -> Tensor:
    """(width, height) as a tensor (2,) of the dtype of `like`; in graphs for any size, runtimes divide by tensors."""
    last = [torch.arange(1, side + 1, device=like.device)[-1] for side in (width, height)]
    return torch.stack(last).to(like.dtype)


class DecoderLayer(nn.Module):
    """Queries attend to the unblocked positions of a map, then to each other; a feed-forward network; norms after."""

    def __init__(self, dim: int, num_heads: int, hidden: int):
        super().__init__()
        self.num_heads = num_heads
        self.cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = feed_forward(dim, hidden)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, blocked: Tensor) -> Tensor:
        """x, query_position: (B, Q, dim); memory, position: (B, N, dim); blocked: (B, Q, N), true where not to look."""
        mask = blocked.repeat_interleave(self.num_heads, 0)
        attended = self.cross_attn(x + query_position, memory + position, memory, attn_mask=mask, need_weights=False)
        x = self.norm1(x + attended[0])
        query = x + query_position
        x = self.norm2(x + self.self_attn(query, query, x, need_weights=False)[0])
        return self.norm3(x + self.ffn(x))


class Mask2FormerHead(nn.Module):
    """The head of Mask2Former.

    Args:
        dims: channels of the four maps, fine to coarse.
        num_classes: classes; the queries' last output is for nothing.
        dim: channels inside, a multiple of 32 and of `num_heads`.
        num_queries: how many masks.
        num_heads: of every attention.
        encoder_depth, decoder_depth: layers of the pixel decoder and of the decoder.

    `forward(maps)` returns the `QueryPredictions` of the last layer.
    """

    decides_by_signs = True  # where a query looks: rounding may change it (see `glocal.deploy.files.difference`)

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        dim: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        encoder_depth: int = 6,
        decoder_depth: int = 9,
    ):
        super().__init__()
        self.pixel_decoder = PixelDecoder(dims, dim, num_heads, encoder_depth, hidden=4 * dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, hidden=8 * dim) for _ in range(decoder_depth))
        self.norm = nn.LayerNorm(dim)
        self.query_position = nn.Parameter(torch.empty(num_queries, dim))
        self.query_content = nn.Parameter(torch.empty(num_queries, dim))
        self.level_embed = nn.Parameter(torch.empty(len(dims) - 1, dim))
        self.classifier = nn.Linear(dim, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )
        self.reset_parameters()

    def reset_parameters(self):
        self.pixel_decoder.reset_parameters()
        xavier_normal(self.layers)
        for embedding in (self.query_position, self.query_content, self.level_embed):
            nn.init.normal_(embedding)

    def forward(self, maps: Sequence[Tensor]) -> QueryPredictions:
        return self.all_predictions(maps)[-1]

    def all_predictions(self, maps: Sequence[Tensor]) -> list[QueryPredictions]:
        """What the queries say before the first layer and after every layer, for the four maps."""
        return self.predictions(self.pixel_decoder(maps))

    def predictions(self, maps: PixelMaps) -> list[QueryPredictions]:
        """What the queries say before the first layer and after every layer."""
        memory = [tokens(x) + embed for x, embed in zip(maps.memory, self.level_embed, strict=True)]
        dim = self.query_content.shape[1]
        positions = [tokens(sine_position(x.shape[2], x.shape[3], dim, x)) for x in maps.memory]
        batch = maps.mask_feature.shape[0]
        x = self.query_content.expand(batch, -1, -1)
        query_position = self.query_position.expand(batch, -1, -1)
        found = [self.predict(x, maps.mask_feature)]
        for i, layer in enumerate(self.layers):
            level = i % len(memory)
            blocked = self.blocked(found[-1].mask_logits, maps.memory[level].shape[2:])
            x = layer(x, query_position, memory[level], positions[level], blocked)
            found.append(self.predict(x, maps.mask_feature))
        return found

    def predict(self, x: Tensor, mask_feature: Tensor) -> QueryPredictions:
        x = self.norm(x)
        return QueryPredictions(self.classifier(x), torch.einsum("bqc,bchw->bqhw", self.mask_embed(x), mask_feature))

    @staticmethod
    @torch.no_grad()
    def blocked(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
        """Where a query does not look at a map of this size, (B, Q, N): outside its mask; no mask blocks nothing."""
        blocked = resize_to(mask_logits, size).flatten(2) < 0
        return blocked & ~blocked.all(-1, keepdim=True)


def xavier_normal(module: nn.Module) -> None:
    """Xavier normal for all matrices below a module."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_normal_(parameter)


# Official names to ours, below `decode_head.`.
RENAMES = [
    (r"^pixel_decoder\.input_convs\.", "pixel_decoder.inputs."),
    (r"^pixel_decoder\.lateral_convs\.0\.", "pixel_decoder.lateral."),
    (r"^pixel_decoder\.output_convs\.0\.", "pixel_decoder.output."),
    (r"^pixel_decoder\.level_encoding\.weight$", "pixel_decoder.level_embed"),
    (r"^pixel_decoder\.encoder\.layers\.", "pixel_decoder.layers."),
    (r"\.gn\.", ".norm."),
    (r"^(pixel_decoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"\.sampling_offsets\.", ".offsets."),
    (r"\.attention_weights\.", ".weights."),
    (r"\.value_proj\.", ".value."),
    (r"\.output_proj\.", ".proj."),
    (r"\.ffn\.layers\.0\.0\.", ".ffn.0."),
    (r"\.ffn\.layers\.1\.", ".ffn.2."),
    *((rf"\.norms\.{i}\.", f".norm{i + 1}.") for i in range(3)),
    (r"^transformer_decoder\.layers\.", "layers."),
    (r"^transformer_decoder\.post_norm\.", "norm."),
    (r"_attn\.attn\.", "_attn."),
    (r"^query_embed\.weight$", "query_position"),
    (r"^query_feat\.weight$", "query_content"),
    (r"^level_embed\.weight$", "level_embed"),
    (r"^cls_embed\.", "classifier."),
]
