"""Region proposal network (arXiv 1506.01497): boxes in which an object may be, of every level of a pyramid."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glocal.models.detectors.anchors import AnchorGrid, by_anchor
from glocal.models.detectors.boxes import decode, encode, pairwise_iou, upcast
from glocal.models.detectors.losses import binary_cross_entropy, smooth_l1_loss
from glocal.models.detectors.matching import Choose, assign, sample
from glocal.models.detectors.suppression import suppress

GRID = AnchorGrid(strides=(4, 8, 16, 32, 64), ratios=(0.5, 1.0, 2.0), scales=(8,))

POSITIVE, NEGATIVE = 0.7, 0.3  # IoU of anchors that are of an object, and of those that are background
SAMPLED, SAMPLED_POSITIVE = 256, 128  # anchors of an image in the loss, and at most of objects
LEVEL_BEST, LEVEL_BEST_TRAINING = 1000, 2000  # boxes of a level that the suppression sees
OVERLAP = 0.7  # IoU of two proposals of a level, at most
PROPOSALS = 1000


class Proposals(NamedTuple):
    """Of an image, the surest first. boxes: (N, 4), inside the image; scores: (N,)."""

    boxes: Tensor
    scores: Tensor


class Drawn(NamedTuple):
    """Anchors of an image that the loss sees: places among all, ascending. owners: the object of each positive."""

    positives: Tensor
    negatives: Tensor
    owners: Tensor


class RPN(nn.Module):
    """A 3×3 convolution, and at every position of five maps a logit and a code for each of three anchors.

    Args:
        dim: channels of the maps.
        inside: in training, whether anchors that cross the border of the image are left out.
        beta: of the smooth L1 loss of codes; 0 is L1.
        training_proposals: of an image, at most, in training; in eval mode 1000.
    """

    def __init__(self, dim: int, inside: bool = False, beta: float = 0.0, training_proposals: int = PROPOSALS):
        super().__init__()
        self.inside = inside
        self.beta = beta
        self.training_proposals = training_proposals
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(dim, GRID.per_position, 1)
        self.regressor = nn.Conv2d(dim, GRID.per_position * 4, 1)
        for conv in (self.conv, self.classifier, self.regressor):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The logits (B, 3, H, W) and codes (B, 12, H, W) at each level."""
        hidden = [self.act(self.conv(x)) for x in maps]
        return [self.classifier(x) for x in hidden], [self.regressor(x) for x in hidden]

    @torch.no_grad()
    def proposals(self, logits: Sequence[Tensor], codes: Sequence[Tensor], sizes: Tensor) -> list[Proposals]:
        """The best boxes of each image. logits, codes: what `forward` returns; sizes: (B, 2)."""
        most_of_level = LEVEL_BEST_TRAINING if self.training else LEVEL_BEST
        most = self.training_proposals if self.training else PROPOSALS
        boxes, scores = [], []
        for anchors, logit, code in zip(GRID(logits), logits, codes, strict=True):
            logit, code = by_anchor(logit, 1)[..., 0], by_anchor(code, 4)
            best, places = logit.topk(min(most_of_level, logit.shape[1]))
            code = code.gather(1, places[..., None].expand(-1, -1, 4))
            boxes.append(decode(anchors[places], code, size=sizes[:, None]))
            scores.append(upcast(best).sigmoid())
        levels = torch.cat([torch.full_like(score[0], i, dtype=torch.int64) for i, score in enumerate(scores)])
        return [
            best_apart(*of_image, levels, most)
            for of_image in zip(torch.cat(boxes, 1), torch.cat(scores, 1), strict=True)
        ]

    def draw(
        self,
        maps: Sequence[Tensor],
        sizes: Sequence[Sequence[int]],
        targets: Sequence[Mapping[str, Tensor]],
        choose: Choose,
    ) -> list[Drawn]:
        """The anchors of each image that the loss sees. maps: any that have the sizes of the levels."""
        anchors = torch.cat(GRID(maps))
        drawn = []
        for size, target in zip(sizes, targets, strict=True):
            places = self.counted(maps, size).nonzero()[:, 0]
            overlaps = pairwise_iou(target["boxes"], anchors[places])
            assigned = assign(overlaps, POSITIVE, NEGATIVE, claim=NEGATIVE)
            positives, negatives = sample(assigned, SAMPLED, SAMPLED_POSITIVE, choose)
            drawn.append(Drawn(places[positives], places[negatives], assigned[positives]))
        return drawn

    def counted(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Which anchors of all levels take part in the training on an image of a size, bool (anchors,)."""
        valid = torch.cat(GRID.valid(maps, size))
        if not self.inside:
            return valid
        height, width = size
        x1, y1, x2, y2 = torch.cat(GRID(maps)).unbind(1)
        return valid & (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)

    def losses(
        self,
        logits: Sequence[Tensor],
        codes: Sequence[Tensor],
        sizes: Sequence[Sequence[int]],
        targets: Sequence[Mapping[str, Tensor]],
        choose: Choose,
    ) -> dict[str, Tensor]:
        """The losses of each level, (5,) each: whether an anchor has an object, and where.

        logits, codes: what `forward` returns. sizes: (height, width) of each image.
        """
        drawn = self.draw(logits, sizes, targets, choose)
        positives, negatives = [one.positives for one in drawn], [one.negatives for one in drawn]
        count = sum(max(len(places), 1) for places in positives + negatives)
        anchors = torch.cat(GRID(logits))[torch.cat(positives)]
        objects = torch.cat([target["boxes"][one.owners] for target, one in zip(targets, drawn, strict=True)])
        levels = torch.cat([torch.full_like(x[0], i, dtype=torch.int64).flatten() for i, x in enumerate(logits)])
        of_positives, of_all = levels[torch.cat(positives)], levels[torch.cat(positives + negatives)]

        logit = torch.cat([by_anchor(x, 1)[..., 0] for x in logits], 1)
        found = torch.cat((at(logit, positives), at(logit, negatives)))
        wanted = (torch.arange(len(found), device=found.device) < len(of_positives)).to(found)
        code = at(torch.cat([by_anchor(x, 4) for x in codes], 1), positives)
        wanted_code = encode(anchors, objects)

        def by_level(loss: Callable[..., Tensor], level: Tensor, *pair: Tensor) -> Tensor:
            return torch.stack([loss(*(x[level == i] for x in pair), count) for i in range(len(logits))])

        return {
            "loss_rpn_cls": by_level(binary_cross_entropy, of_all, found, wanted),
            "loss_rpn_bbox": by_level(partial(smooth_l1_loss, beta=self.beta), of_positives, code, wanted_code),
        }


def at(values: Tensor, places: Sequence[Tensor]) -> Tensor:
    """The values at places of each image, one image after another, in single precision at least: values (B, N, …)."""
    return upcast(torch.cat([of_image[place] for of_image, place in zip(values, places, strict=True)]))


def best_apart(boxes: Tensor, scores: Tensor, levels: Tensor, most: int) -> Proposals:
    """The boxes that have an extent and no better one of their level near them; those of NaN stay, to be seen."""
    extent = boxes[:, 2:] - boxes[:, :2]
    whole = (~(extent <= 0).any(1)).nonzero()[:, 0]
    kept = whole[suppress(boxes[whole], scores[whole], levels[whole], OVERLAP, most)]
    return Proposals(boxes[kept], scores[kept])


# Official names to ours.
RENAMES = [
    (r"^rpn_conv\.", "conv."),
    (r"^rpn_cls\.", "classifier."),
    (r"^rpn_reg\.", "regressor."),
]
