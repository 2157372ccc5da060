"""Maps of one width for DINO's encoder."""

from collections.abc import Sequence

from torch import Tensor, nn

from glocal.layers.conv_norm import ConvGroupNorm


class Neck(nn.Module):
    """A 1×1 convolution and GroupNorm for each map, and a further map at half the size of the last.

    Args:
        dims: channels of the maps, fine to coarse.
        dim: channels of all results, a multiple of 64.

    `forward(maps)` gives one map more than it gets; the last is a 3×3 convolution with stride 2 of the last input.
    """

    def __init__(self, dims: Sequence[int], dim: int):
        super().__init__()
        self.inputs = nn.ModuleList(ConvGroupNorm(channels, dim, 1, bias=False) for channels in dims)
        self.extra = ConvGroupNorm(dims[-1], dim, 3, bias=False, stride=2)

    def reset_parameters(self):
        for block in (*self.inputs, self.extra):
            nn.init.xavier_uniform_(block.conv.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [*(block(x) for block, x in zip(self.inputs, maps, strict=True)), self.extra(maps[-1])]
