"""Mask R-CNN's mask head (arXiv 1703.06870): the features of regions to a 28×28 mask for every class."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from glocal.layers.conv_norm import ConvNorm
from glocal.models.detectors.boxes import clip

SIDE = 14
MASK_SIDE = 2 * SIDE
CHUNK = 8  # masks that are floating-point numbers at the same time


class MaskHead(nn.Module):
    """Four 3×3 convolutions, a doubling and a classifier at every position.

    Args:
        dim: channels of the features and inside.
        num_classes: K.

    `forward(x)` returns for (N, dim, 14, 14) the logits (N, K, 28, 28).
    """

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.convs = nn.Sequential(*(ConvNorm(dim, dim, 3, norm=None) for _ in range(4)))
        self.upsample = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(dim, num_classes, 1)
        self.reset_parameters()

    def reset_parameters(self):
        for conv in (*(block.conv for block in self.convs), self.upsample, self.classifier):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.act(self.upsample(self.convs(x))))

    def of_classes(self, x: Tensor, labels: Tensor) -> Tensor:
        """The logits of one class for each region: x (N, dim, 14, 14), labels (N,); (N, 28, 28)."""
        return self(x)[torch.arange(labels.shape[0], device=labels.device), labels]


def mask_targets(boxes: Tensor, owners: Tensor, masks: Tensor, size: Sequence[int]) -> Tensor:
    """What the mask head should say of each region: the object's mask in the box, at 28×28, 0 or 1.

    A target is the RoIAlign of the mask, with as many samples in a bin as it has pixels, rounded up; 1 from one half.
    Boxes are cut off at the border of the image.

    Args:
        boxes: (N, 4) in pixels of the masks.
        owners: (N,) the place of each box's object in masks.
        masks: (objects, H, W) bool or uint8; what exceeds the size is cut off.
        size: (height, width) of the image as the original pads it: samples at its border see zeros beyond H and W.

    Returns:
        (N, 28, 28) of the boxes' type.
    """
    height, width = size
    boxes = clip(boxes, size)
    targets = boxes.new_zeros(len(boxes), MASK_SIDE, MASK_SIDE)
    for start in range(0, len(masks), CHUNK):
        place = ((owners >= start) & (owners < start + CHUNK)).nonzero()[:, 0]
        regions = torch.cat(((owners[place] - start)[:, None].to(boxes.dtype), boxes[place]), 1)
        pixels = masks[start : start + CHUNK, :height, :width].to(boxes.dtype)
        pixels = F.pad(pixels, (0, width - pixels.shape[2], 0, height - pixels.shape[1]))
        targets[place] = roi_align(pixels[:, None], regions, MASK_SIDE, sampling_ratio=-1, aligned=True)[:, 0]
    return (targets >= 0.5).to(boxes.dtype)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over all regions and pixels; 0 without regions. Both (N, 28, 28)."""
    if not len(logits):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def mean_logits(stages: Sequence[Tensor]) -> Tensor:
    """The logits of the mean probability of several logits; finite where probabilities round to 0 or 1."""
    if len(stages) == 1:
        return stages[0]
    logits = torch.stack(list(stages))
    # −softplus(−x) is the logarithm of the sigmoid; runtimes make log(sigmoid(x)) of logsigmoid, which may be −∞.
    return (-F.softplus(-logits)).logsumexp(0) - (-F.softplus(logits)).logsumexp(0)


# Official names to ours.
RENAMES = [
    (r"\bconv_logits\.", "classifier."),
]
