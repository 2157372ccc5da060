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

from glocal.layers.conv_norm import ConvGroupNorm
from glocal.layers.deformable_attention import DeformableEncoderLayer, feed_forward
from glocal.layers.places import centres, sine_features, tokens
from glocal.models.heads.resize import resize_to

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

    def axis(length: int) -> Tensor:  # (length, half)
        place = torch.arange(1, length + 1, device=like.device, dtype=dtype)
        # The last place is the length. In graphs for any size, not all runtimes make a float of a size.
        return sine_features(place * (2 * math.pi) / (place[-1:] + 1e-6), half)

    y = axis(height).t().reshape(1, half, height, 1).expand(1, half, height, width)
    x = axis(width).t().reshape(1, half, 1, width).expand(1, half, height, width)
    return torch.cat((y, x), 1).to(like.dtype)


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
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, num_heads, len(coarse), DEFORMABLE_POINTS, hidden) for _ in range(depth)
        )
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
        reference = torch.cat([centres(height, width, inputs[0]) for height, width in sizes], 1).unsqueeze(2)
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
