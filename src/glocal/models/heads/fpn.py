"""Feature pyramid network: maps of one width, each with what the coarser ones know (arXiv 1612.03144)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """1×1 convolutions of the maps, added from coarse to fine (nearest), then a 3×3 convolution of each.

    Args:
        dims: channels of the maps, fine to coarse.
        width: channels of the results.
        coarser: further maps, each by a 3×3 convolution of stride 2, the first of the last map that is given
            (arXiv 1708.02002: P6 and P7, here without the ReLU between).

    `forward(maps)` returns as many maps, of the same sizes and `width` channels, and after them the coarser ones.
    """

    def __init__(self, dims: Sequence[int], width: int = 256, coarser: int = 0):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in dims)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in dims)
        self.coarser = nn.ModuleList(
            nn.Conv2d(width if i else dims[-1], width, 3, stride=2, padding=1) for i in range(coarser)
        )
        for conv in (*self.laterals, *self.convs, *self.coarser):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        laterals = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[2:])
        outputs = [conv(x) for conv, x in zip(self.convs, laterals, strict=True)]
        x = maps[-1]
        for conv in self.coarser:
            x = conv(x)
            outputs.append(x)
        return outputs


# Official names to ours.
RENAMES = [(r"^lateral_convs\.(\d)\.conv\.", r"laterals.\1."), (r"^fpn_convs\.(\d)\.conv\.", r"convs.\1.")]
