"""DINO (arXiv 2203.03605): queries that begin at the encoder's surest positions; TransNeXt's best published boxes."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from glocal.device import mean_of_processes
from glocal.errors import InvalidValueError
from glocal.models.arguments import Depth, Width
from glocal.models.detectors.boxes import clip, upcast
from glocal.models.detectors.dino.box_logits import corners, logit, scale_of
from glocal.models.detectors.dino.decoder import Decoded, Decoder
from glocal.models.detectors.dino.denoising import Denoising, Noisy, Random, hidden_pairs
from glocal.models.detectors.dino.encoder import Encoder
from glocal.models.detectors.dino.losses import losses_of, of_denoising
from glocal.models.detectors.dino.matching import match
from glocal.models.detectors.dino.neck import Neck
from glocal.models.detectors.dino.positions import Tokens, as_tokens, padded_size
from glocal.models.detectors.dino.selection import QuerySelection, Selected
from glocal.models.detectors.head import QueryHead, surest

HEAD_ARGS: dict[str, Any] = {
    "scales": Literal[4, 5],
    "width": Width,
    "depth": Depth,
    "num_queries": Annotated[int, Meta(ge=1, le=16384)],
}

HEADS, POINTS = 8, 4
PRIOR = 0.01  # probability of each class at the start of a training
BOX_EPS = 1e-5  # of the logit of a box that the head corrects
DETECTIONS = 300


class Outputs(NamedTuple):
    """What the head computes before the losses. class_logits: (layers, B, Q, classes); boxes: (layers, B, Q, 4),
    (cx, cy, w, h) relative to the image; denoising queries come first."""

    tokens: Tokens
    memory: Tensor
    selected: Selected
    decoded: Decoded
    class_logits: Tensor
    boxes: Tensor


class DINOHead(QueryHead):
    """An encoder of all maps, the selection of queries among its positions, and a decoder that moves their boxes.

    Args:
        dims: channels of the four maps, fine to coarse.
        num_classes: classes.
        scales: maps that the encoder reads: 4 leaves out the one at stride 4, 5 takes all; one at stride 64 is added.
        width: channels inside, a multiple of 64: each of 32 groups of a norm has two or more, also on maps of 1 × 1.
        depth: layers of the encoder, and of the decoder.
        num_queries: boxes at most; maps with fewer positions fill up (see `QuerySelection`).

    Losses, all scalars: `loss_cls` (focal), `loss_bbox` (L1), `loss_iou` (GIoU) of the last layer; with the prefix
    `d0.`, `d1.`, … of the other layers, `enc_` of the selection; `dn_` of the denoising queries, `d0.dn_`, …. The
    divisors are means over all processes. `random` draws the noise of the denoising queries (see `Random`) and may be
    replaced. A batch without objects has no denoising queries: their losses are 0. See `DetectionHead`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        scales: int = 4,
        width: int = 256,
        depth: int = 6,
        num_queries: int = 900,
    ):
        super().__init__()
        if scales not in (4, 5):
            raise InvalidValueError(f"scales must be 4 or 5, not {scales}")
        if width % 64:
            raise InvalidValueError(f"width must be a multiple of 64, not {width}")
        self.num_classes = num_classes
        self.first_map = 5 - scales  # of the maps that are used
        layers = (depth, width, HEADS, scales, POINTS, 8 * width)
        self.neck = Neck(dims[self.first_map :], width)
        self.level_embed = nn.Parameter(torch.empty(scales, width))
        self.encoder = Encoder(*layers)
        self.selection = QuerySelection(width, num_queries)
        self.query_content = nn.Parameter(torch.empty(num_queries, width))
        self.denoising = Denoising(num_classes, width)
        self.decoder = Decoder(*layers)
        # one for each layer of the decoder, and a last one for the selection
        self.classifiers = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(depth + 1))
        self.regressors = nn.ModuleList(box_regressor(width) for _ in range(depth + 1))
        self.reset_parameters()

    def reset_parameters(self):
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for layer in self.encoder.layers:
            layer.attention.reset_parameters()
        for layer in self.decoder.layers:
            layer.cross_attn.reset_parameters()
        for part in (self.neck, self.selection, self.denoising):
            part.reset_parameters()
        nn.init.normal_(self.level_embed)
        nn.init.xavier_uniform_(self.query_content)
        for classifier in self.classifiers:
            nn.init.constant_(classifier.bias, -math.log((1 - PRIOR) / PRIOR))
        for regressor in self.regressors:
            nn.init.zeros_(regressor[-1].weight)
            nn.init.zeros_(regressor[-1].bias)

    @property
    def random(self) -> Random:
        return self.denoising.random

    @random.setter
    def random(self, random: Random):
        self.denoising.random = random

    def outputs(self, maps: Sequence[Tensor], sizes: Tensor, noisy: Noisy | None = None) -> Outputs:
        """What the queries say after every layer of the decoder; noisy: denoising queries, in training."""
        sizes = sizes.to(maps[0].device)
        levels = self.neck(maps[self.first_map :])
        tokens = as_tokens(levels, self.level_embed, sizes, padded_size(maps[0], 4, sizes))
        memory = self.encoder(tokens)
        selected = self.selection(memory, tokens, self.classifiers[-1], self.regressors[-1])
        content = self.query_content.expand(memory.shape[0], -1, -1)
        box_logits, hidden = selected.box_logits.detach(), None
        if noisy is not None:
            content = torch.cat((noisy.content.to(content.dtype), content), 1)
            box_logits = torch.cat((noisy.boxes.to(box_logits.dtype), box_logits), 1)
            hidden = hidden_pairs(noisy.size, noisy.groups, len(self.query_content), memory.device)
        decoded = self.decoder(content, box_logits.sigmoid(), memory, tokens, self.regressors[:-1], hidden)
        before = decoded.references[:-1]  # the boxes that each layer moves
        layers = list(zip(self.classifiers[:-1], self.regressors[:-1], decoded.hidden, before, strict=True))
        class_logits = torch.stack([classifier(x) for classifier, _, x, _ in layers])
        boxes = torch.stack([(upcast(regressor(x)) + logit(box, BOX_EPS)).sigmoid() for _, regressor, x, box in layers])
        return Outputs(tokens, memory, selected, decoded, class_logits, boxes)

    def best(self, maps: Sequence[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.outputs(maps, sizes)
        logits, sizes = upcast(outputs.class_logits[-1]), sizes.to(outputs.boxes.device).unsqueeze(1)
        boxes, scores, labels = surest(logits, outputs.boxes[-1], min(DETECTIONS, logits.shape[1] * logits.shape[2]))
        return clip(corners(boxes) * scale_of(sizes, boxes), sizes), scores, labels

    def losses(self, maps, sizes, targets, class_weights=None):
        noisy = self.denoising(targets, sizes)
        outputs = self.outputs(maps, sizes, noisy)
        first = noisy.content.shape[1]
        class_logits = torch.cat((outputs.class_logits[:, :, first:], outputs.selected.class_logits[None]))
        boxes = torch.cat((outputs.boxes[:, :, first:], outputs.selected.box_logits.sigmoid()[None]))
        matched = match(class_logits.detach(), boxes.detach(), targets, sizes)
        positives = of_denoising(noisy, targets, boxes.device)
        counts = [sum(len(queries) for queries, _ in found) for found in (matched[0], positives)]
        counts = mean_of_processes(torch.tensor(counts, dtype=upcast(boxes).dtype, device=boxes.device))
        count, noisy_count = counts.clamp(min=1)

        losses = {}
        depth = len(outputs.class_logits)
        prefixes = [*(f"d{i}." for i in range(depth - 1)), "", "enc_"]
        for i, prefix in enumerate(prefixes):
            found = losses_of(class_logits[i], boxes[i], matched[i], targets, sizes, count, class_weights)
            losses |= {prefix + name: loss for name, loss in found.items()}
        for i, prefix in enumerate(prefixes[:depth]):
            own = outputs.class_logits[i, :, :first], outputs.boxes[i, :, :first]
            found = losses_of(*own, positives, targets, sizes, noisy_count, class_weights)
            losses |= {f"{prefix}dn_{name}": loss for name, loss in found.items()}
        # Without objects no embedding was used: all parameters take part on every process.
        losses["dn_loss_cls"] = losses["dn_loss_cls"] + 0 * self.denoising.label_embed.sum()
        return losses


def box_regressor(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))


# Official names to ours, below each prefix.
_LAYERS = [
    (r"\.sampling_offsets\.", ".offsets."),
    (r"\.attention_weights\.", ".weights."),
    (r"\.value_proj\.", ".value."),
    (r"\.output_proj\.", ".proj."),
    (r"\.ffn\.layers\.0\.0\.", ".ffn.0."),
    (r"\.ffn\.layers\.1\.", ".ffn.2."),
    *((rf"\.norms\.{i}\.", f".norm{i + 1}.") for i in range(3)),
]
PARTS: Mapping[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "neck.": (
        "head.neck.",
        [(r"^convs\.", "inputs."), (r"^extra_convs\.0\.", "extra."), (r"\.gn\.", ".norm.")],
    ),
    "level_embed": ("head.level_embed", []),
    "encoder.": ("head.encoder.", [(r"\.self_attn\.", ".attention."), *_LAYERS]),
    "memory_trans_fc.": ("head.selection.proj.", []),
    "memory_trans_norm.": ("head.selection.norm.", []),
    "query_embedding.weight": ("head.query_content", []),
    "dn_query_generator.label_embedding.weight": ("head.denoising.label_embed", []),
    "decoder.": (
        "head.decoder.",
        [
            (r"\.self_attn\.attn\.", ".self_attn."),
            (r"^ref_point_head\.layers\.0\.", "position.0."),
            (r"^ref_point_head\.layers\.1\.", "position.2."),
            *_LAYERS,
        ],
    ),
    "bbox_head.": ("head.", [(r"^cls_branches\.", "classifiers."), (r"^reg_branches\.", "regressors.")]),
}
