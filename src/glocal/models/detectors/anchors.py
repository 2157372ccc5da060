"""Anchors: boxes of a few shapes at every position of every map, in the places where objects are looked for."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PADDED_TO = 32  # in training, images count as padded to multiples of it


class AnchorGrid:
    """The anchors of maps: at each position the same shapes, centred on the first corner of its cell.

    Args:
        strides: pixels per position, for each level.
        ratios: heights over widths.
        scales: square roots of the areas, in strides. All pairs of a ratio and a scale are used, the scales of the
            first ratio first.

    Source: arXiv 1506.01497, section 3.1.1.
    """

    def __init__(self, strides: Sequence[int], ratios: Sequence[float], scales: Sequence[float]):
        self.strides = tuple(strides)
        self.shapes = [(1 / math.sqrt(ratio), math.sqrt(ratio), scale) for ratio in ratios for scale in scales]

    @property
    def per_position(self) -> int:
        return len(self.shapes)

    def __call__(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The anchors of maps (…, H, W), each (H·W·`per_position`, 4): by rows, columns, shapes; not clipped."""
        return [self._of_level(stride, x) for stride, x in zip(self.strides, maps, strict=True)]

    def _of_level(self, stride: int, x: Tensor) -> Tensor:
        kind = {"dtype": torch.promote_types(x.dtype, torch.float32), "device": x.device}
        halves = [(0.5 * (stride * wide * scale), 0.5 * (stride * high * scale)) for wide, high, scale in self.shapes]
        shapes = torch.tensor([(-across, -down, across, down) for across, down in halves], **kind)
        rows, columns = (torch.arange(count, **kind) * stride for count in x.shape[-2:])
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return (torch.stack([x, y, x, y], -1).unsqueeze(2) + shapes).flatten(0, 2)

    def valid(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Which anchors of maps (…, H, W) lie in cells of an image, for training: bool, (H·W·`per_position`,) each.

        The image counts with its own padding, to a multiple of 32, and without that of its batch.

        size: (height, width) of the image, before padding.
        """
        padded = [-(-int(side) // PADDED_TO) * PADDED_TO for side in size]
        found = []
        for stride, x in zip(self.strides, maps, strict=True):
            rows, columns = (
                torch.arange(count, device=x.device) < -(-side // stride)
                for count, side in zip(x.shape[-2:], padded, strict=True)
            )
            found.append((rows[:, None] & columns).flatten().repeat_interleave(self.per_position))
        return found


def by_anchor(x: Tensor, values: int) -> Tensor:
    """(B, anchors · values, H, W) → (B, H · W · anchors, values), in the order of `AnchorGrid`."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)
