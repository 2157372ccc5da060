"""D-FINE (arXiv 2410.13842): boxes in real time, whose sides are moved by distributions; transformers computes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from glocal.errors import InvalidValueError
from glocal.models.arguments import Depth, Width
from glocal.models.detectors.boxes import clip, upcast
from glocal.models.detectors.d_fine import library
from glocal.models.detectors.d_fine.positions import SinePositions
from glocal.models.detectors.d_fine.selection import Selected, Selection
from glocal.models.detectors.dino.box_logits import corners, from_corners, scale_of
from glocal.models.detectors.head import QueryHead, surest

HEAD_ARGS: dict[str, Any] = {
    "size": Literal["n", "s", "m", "l", "x"],
    "width": Width,
    "depth": Depth,
    "num_queries": Annotated[int, Meta(ge=1, le=16384)],
    "num_denoising": Annotated[int, Meta(ge=0, le=16384)],
}

STRIDES = (4, 8, 16, 32)
PRIOR = 0.01  # probability of each class at the start of a training
LOSSES = ("loss_vfl", "loss_bbox", "loss_giou", "loss_fgl", "loss_ddf")


class Noisy(NamedTuple):
    """Denoising queries. content: (B, D, C). box_logits: (B, D, 4). hidden: (D + Q, D + Q), minus infinity where a
    query does not see another, and 0 elsewhere. meta: what transformers' losses want to know."""

    content: Tensor
    box_logits: Tensor
    hidden: Tensor
    meta: dict[str, Any]


class Outputs(NamedTuple):
    """What the head computes before the losses. decoded: what transformers' decoder returns; boxes are (cx, cy, w, h)
    relative to what the maps show, and denoising queries come first."""

    selected: Selected
    decoded: Any


class DFineHead(QueryHead):
    """A hybrid encoder of the maps, the selection of queries among its positions, and a decoder that moves their boxes.

    The parts and losses are those of the library transformers (the extra `dfine`), without its backbones.

    Args:
        dims: channels of the four maps, fine to coarse.
        num_classes: classes.
        size: of the published models: n, s, m, l or x. n reads the last two maps, the others the last three.
        width: channels of the encoder and the decoder, a multiple of 8 (default: of the size).
        depth: layers of the decoder (default: of the size).
        num_queries: boxes at most; maps with fewer positions fill up (see `Selection`).
        num_denoising: denoising queries of an image in training, about; 0: none.

    The parts know no padding: what is padded counts as image, and their boxes are relative to the padded image. Results
    are clipped to the image; the losses have boxes relative to the image without padding. If sides are not multiples
    of 32, the maps are padded with zeros, or cut, to 4, 2 and 1 times the size of the coarsest.

    Losses, all scalars, weighted, by transformers' names: `loss_vfl` (varifocal), `loss_bbox` (L1) and `loss_giou` of
    the last layer; with the suffix `_aux_0`, … of the others and of the selection; `_dn_0`, … of the denoising queries;
    of layers also `loss_fgl` and `loss_ddf`, of the distributions. transformers computes them in single precision, and
    knows no weights of classes. See `DetectionHead`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        size: str = "l",
        width: int | None = None,
        depth: int | None = None,
        num_queries: int = 300,
        num_denoising: int = 100,
    ):
        super().__init__()
        chosen = library.size_of(size, width, depth)
        parts = library.modeling()
        self.first_map = STRIDES.index(chosen.strides[0])
        self.num_classes = num_classes
        dims = dims[self.first_map :]
        self.config = config = library.config_of(chosen, dims, num_classes, num_queries, num_denoising)
        inner, outer = chosen.decoder_width, chosen.width
        self.inputs = nn.ModuleList(_projection(dim, outer) for dim in dims)
        self.encoder = parts.DFineHybridEncoder(config)
        for layer in self.encoder.aifi:
            layer.position_embedding = SinePositions(outer, config.positional_encoding_temperature)
        self.projections = nn.ModuleList(_projection(outer, inner) for _ in dims if inner != outer)
        regressor = parts.DFineMLPPredictionHead(inner, inner, 4, num_layers=3)
        self.selection = Selection(inner, num_classes, num_queries, regressor)
        if num_denoising:
            self.label_embed = nn.Embedding(num_classes + 1, inner, padding_idx=num_classes)
        self.decoder = parts.DFineDecoder(config)
        self.decoder.class_embed = nn.ModuleList(nn.Linear(inner, num_classes) for _ in range(chosen.depth))
        bins = 4 * (config.max_num_bins + 1)
        self.decoder.bbox_embed = nn.ModuleList(parts.DFineMLP(inner, inner, bins, 3) for _ in range(chosen.depth))
        self.reset_parameters()

    def reset_parameters(self):
        """As transformers does, but for the probability of a class; encoder and decoder have done it themselves."""
        own = (self.inputs, self.projections, self.selection, self.decoder.bbox_embed)
        for module in (module for part in own for module in part.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for classifier in (self.selection.classifier, *self.decoder.class_embed):
            nn.init.xavier_uniform_(classifier.weight)
            nn.init.constant_(classifier.bias, -math.log((1 - PRIOR) / PRIOR))
        for regressor in self.decoder.bbox_embed:
            nn.init.zeros_(regressor.layers[-1].weight)
        if self.config.num_denoising:
            nn.init.xavier_uniform_(self.label_embed.weight)

    def outputs(self, maps: Sequence[Tensor], noisy: Noisy | None = None) -> Outputs:
        """What the queries say; in training after every layer of the decoder. noisy: denoising queries, in training."""
        maps = aligned(maps[self.first_map :])
        levels = self.encoder([project(x) for project, x in zip(self.inputs, maps, strict=True)]).last_hidden_state
        if self.projections:
            levels = [project(x) for project, x in zip(self.projections, levels, strict=True)]
        sizes = [tuple(x.shape[2:]) for x in levels]
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)
        selected = self.selection(memory, sizes)
        content = selected.content
        box_logits = selected.box_logits.detach().to(content)
        if noisy is not None:
            content = torch.cat((noisy.content.to(content), content), 1)
            box_logits = torch.cat((noisy.box_logits.to(content), box_logits), 1)
        decoded = self.decoder(
            inputs_embeds=content,
            encoder_hidden_states=memory,
            encoder_attention_mask=None if noisy is None else noisy.hidden.to(content),
            reference_points=box_logits,
            # Only checked; of a tensor, the check would stay in graphs for ONNX.
            spatial_shapes=np.array(sizes, object),
            spatial_shapes_list=sizes,
        )
        return Outputs(selected, decoded)

    def best(self, maps: Sequence[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decoded = self.outputs(maps).decoded
        last = decoded.intermediate_logits[:, -1], decoded.intermediate_reference_points[:, -1]
        boxes, scores, labels = surest(*map(upcast, last), self.config.num_queries)
        boxes = corners(boxes) * scale_of(canvas_of(maps), boxes)
        return clip(boxes, sizes.unsqueeze(1)), scores, labels

    def losses(self, maps, sizes, targets, class_weights=None):
        if class_weights is not None:
            raise InvalidValueError("the losses of d_fine are transformers', which have no weights of classes")
        canvas = canvas_of(maps).expand(len(sizes), 2)
        noisy = self.noisy(relative(targets, canvas))
        selected, decoded = self.outputs(maps, noisy)
        growth = scale_of(canvas / sizes, canvas.float())

        def own(boxes: Tensor) -> Tensor:  # relative to the image instead of the padded image
            return (boxes.float() * growth.view(-1, *(1,) * (boxes.ndim - 2), 4)).nan_to_num(0.0)

        logits, boxes = decoded.intermediate_logits.float(), own(decoded.intermediate_reference_points)
        found = library.criterion()(
            logits[:, -1],
            relative(targets, sizes),
            logits.device,
            boxes[:, -1],
            self.config,
            logits,
            boxes,
            enc_topk_logits=selected.class_logits.float(),
            enc_topk_bboxes=own(selected.box_logits.sigmoid()),
            denoising_meta_values=None if noisy is None else noisy.meta,
            predicted_corners=decoded.intermediate_predicted_corners.float(),
            initial_reference_points=own(decoded.initial_reference_points),
        )[1]
        # Boxes that are no numbers are an error in transformers; here the loss is none, at which the training stops.
        nothing = 0 * decoded.intermediate_reference_points.float().sum()
        if self.config.num_denoising:  # on every process, also in a batch without objects
            nothing = nothing + 0 * self.label_embed.weight.sum()
            for layer in range(self.config.decoder_layers):
                found = {f"{name}_dn_{layer}": nothing for name in LOSSES} | found
        return {**found, "loss_vfl": found["loss_vfl"] + nothing}

    def noisy(self, targets: Sequence[Mapping[str, Tensor]]) -> Noisy | None:
        """Denoising queries of objects as transformers has them (see `relative`); None if there are none."""
        if not self.config.num_denoising:
            return None
        found = library.modeling().get_contrastive_denoising_training_group(
            targets,
            self.num_classes,
            self.config.num_queries,
            self.label_embed,
            self.config.num_denoising,
            self.config.label_noise_ratio,
            self.config.box_noise_scale,
        )
        return None if found[0] is None else Noisy(*found)


def aligned(maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps, fine to coarse, each twice as large as the next one: zeros are added at the right and bottom, or what is
    there is cut off."""
    found = []
    for place, x in enumerate(maps):
        times = 2 ** (len(maps) - 1 - place)
        bottom, right = (times * side - own for side, own in zip(maps[-1].shape[2:], x.shape[2:], strict=True))
        found.append(F.pad(x, (0, right, 0, bottom)))
    return found


def canvas_of(maps: Sequence[Tensor]) -> Tensor:
    """(height, width) of what aligned maps show, (2,), in pixels."""
    return torch.tensor([STRIDES[-1] * side for side in maps[-1].shape[2:]], device=maps[-1].device)


def relative(targets: Sequence[Mapping[str, Tensor]], sizes: Tensor) -> list[dict[str, Tensor]]:
    """Targets as transformers has them: boxes are (cx, cy, w, h) in shares of the sizes, (B, 2)."""
    found = []
    for target, size in zip(targets, sizes, strict=True):
        boxes = target["boxes"].float()
        found.append({"class_labels": target["labels"], "boxes": from_corners(boxes / scale_of(size, boxes))})
    return found


def _projection(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, width, 1, bias=False), nn.BatchNorm2d(width))


# Official names to ours, below each prefix. The last two are other names of parts of the decoder: a file has either.
PARTS: Mapping[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "model.encoder_input_proj.": ("head.inputs.", []),
    "model.encoder.": ("head.encoder.", []),
    "model.decoder_input_proj.": ("head.projections.", []),
    "model.denoising_class_embed.": ("head.label_embed.", []),
    "model.enc_output.": ("head.selection.", [(r"^0\.", "proj."), (r"^1\.", "norm.")]),
    "model.enc_score_head.": ("head.selection.classifier.", []),
    "model.enc_bbox_head.": ("head.selection.regressor.", []),
    "model.decoder.": ("head.decoder.", []),
    "class_embed.": ("head.decoder.class_embed.", []),
    "bbox_embed.": ("head.decoder.bbox_embed.", []),
}
