"""Semantic FPN (arXiv 1901.02446, section 3): the head of TransXNet's and VAN's published results."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from glocal.layers.conv_norm import ConvNorm
from glocal.models.heads import fpn
from glocal.models.heads.fpn import FPN
from glocal.models.heads.resize import resize_to
from glocal.models.heads.start import start_head


class SemanticFPN(nn.Module):
    """An FPN; every level is brought to stride 4 by steps of convolution and doubling; the sum is classified.

    Args:
        dims: channels of the four maps, fine to coarse.
        num_classes: outputs.
        width: channels of the sum.
        neck_width: channels of the FPN.
        drop_rate: of whole channels before the classifier.

    `forward(maps)` returns logits at the size of the first map, (B, num_classes, H, W).
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, width: int = 128, neck_width: int = 256, drop_rate: float = 0.1
    ):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(ConvNorm(neck_width if i == 0 else width, width, 3) for i in range(max(1, level)))
            for level in range(len(dims))
        )
        self.drop = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        start_head(self)
        self.neck = FPN(dims, neck_width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.drop(self.fused(maps)))

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """The sum of all levels at the size of the first map, (B, width, H, W)."""
        maps = self.neck(maps)
        total = self.levels[0][0](maps[0])
        for convs, x in zip(self.levels[1:], maps[1:], strict=True):
            for conv in convs:  # doubled exactly: larger than the first map where its sides are odd, then shrunk
                x = F.interpolate(conv(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            total = total + resize_to(x, maps[0].shape[2:])
        return total


# Official names to ours, below `decode_head.` and `neck.`.
RENAMES = [
    (r"^scale_heads\.0\.0\.", "levels.0.0."),
    *((rf"^scale_heads\.(\d)\.{2 * k}\.", rf"levels.\1.{k}.") for k in range(3)),
    (r"^(levels\.\d\.\d)\.bn\.", r"\1.norm."),
    (r"^conv_seg\.", "classifier."),
]
NECK_RENAMES = fpn.RENAMES
