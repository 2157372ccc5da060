"""FCN: one convolution and a classifier at every position; UPerNet's auxiliary head (arXiv 1411.4038)."""

from collections.abc import Sequence

from torch import Tensor, nn

from glocal.layers.conv_norm import ConvNorm
from glocal.models.heads.start import start_head


class FCNHead(nn.Module):
    """A 3×3 convolution with batch norm and ReLU, dropout of channels and a 1×1 classifier, on one of the maps.

    Args:
        dims: channels of the maps.
        num_classes: outputs.
        level: which of the maps.
        width: channels of the convolution.
        drop_rate: of whole channels before the classifier.

    `forward(maps)` returns logits at the map's stride, (B, num_classes, H, W).
    """

    def __init__(self, dims: Sequence[int], num_classes: int, level: int = 2, width: int = 256, drop_rate: float = 0.1):
        super().__init__()
        self.level = level
        self.conv = ConvNorm(dims[level], width, 3)
        self.drop = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        start_head(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.drop(self.conv(maps[self.level])))


# Official names to ours.
RENAMES = [
    (r"^convs\.0\.conv\.", "conv.conv."),
    (r"^convs\.0\.bn\.", "conv.norm."),
    (r"^conv_seg\.", "classifier."),
]
