"""UPerNet (arXiv 1807.10221): the head of TransNeXt's and VAN's published results."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glocal.layers.conv_norm import ConvNorm
from glocal.models.heads.resize import resize_to
from glocal.models.heads.start import start_head
from glocal.ops import adaptive_average_pool

POOL_SIDES = (1, 2, 3, 6)


class UPerNetHead(nn.Module):
    """Pyramid pooling of the last map, a feature pyramid, and a classifier on all levels together.

    Args:
        dims: channels of the four maps, fine to coarse.
        num_classes: outputs.
        width: channels inside.
        drop_rate: of whole channels before the classifier.

    `forward(maps)` returns logits at the size of the first map, (B, num_classes, H, W).
    """

    def __init__(self, dims: Sequence[int], num_classes: int, width: int = 512, drop_rate: float = 0.1):
        super().__init__()
        self.pools = nn.ModuleList(ConvNorm(dims[-1], width) for _ in POOL_SIDES)
        self.pooled = ConvNorm(dims[-1] + len(POOL_SIDES) * width, width, 3)
        self.laterals = nn.ModuleList(ConvNorm(dim, width) for dim in dims[:-1])
        self.convs = nn.ModuleList(ConvNorm(width, width, 3) for _ in dims[:-1])
        self.merge = ConvNorm(len(dims) * width, width, 3)
        self.drop = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        start_head(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.drop(self.fused(maps)))

    def pyramid_pooling(self, x: Tensor) -> Tensor:
        """The last map with means over 1, 4, 9 and 36 parts of it, (B, width, h, w)."""
        pools = [
            resize_to(conv(adaptive_average_pool(x, side, side)), x.shape[2:])
            for side, conv in zip(POOL_SIDES, self.pools, strict=True)
        ]
        return self.pooled(torch.cat([x, *pools], 1))

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """All levels together at the size of the first map, (B, width, H, W)."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps[:-1], strict=True)]
        levels.append(self.pyramid_pooling(maps[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize_to(levels[i], levels[i - 1].shape[2:])
        outputs = [conv(x) for conv, x in zip(self.convs, levels[:-1], strict=True)] + levels[-1:]
        size = outputs[0].shape[2:]
        return self.merge(torch.cat([outputs[0], *(resize_to(x, size) for x in outputs[1:])], 1))


# Official names to ours, below `decode_head.`.
RENAMES = [
    (r"^psp_modules\.(\d)\.1\.", r"pools.\1."),
    (r"^bottleneck\.", "pooled."),
    (r"^fpn_bottleneck\.", "merge."),
    (r"^lateral_convs\.", "laterals."),
    (r"^fpn_convs\.", "convs."),
    (r"\.bn\.", ".norm."),
    (r"^conv_seg\.", "classifier."),
]
