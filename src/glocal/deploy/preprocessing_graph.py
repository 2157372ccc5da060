"""A model's preprocessing as a part of its graph, which then takes decoded images of any size."""

import math

import torch
from torch import Tensor, nn

from glocal.data.preprocessing import MAX_ASPECT, Preprocessing
from glocal.errors import InvalidValueError

INTERPOLATIONS = ("bilinear", "bicubic")
CROPS = ("center", "squash")


class PreprocessingGraph(nn.Module):
    """RGB images, uint8 (B, H, W, 3) of any size, to the model's input, float32 (B, 3, *input_size[1:]).

    The steps are those of `Preprocessing.transform`: cut extreme shapes, resize as Pillow does (each side separately,
    pixels weighted by their distance, rounded to whole levels), crop and normalise. Resizing and cropping are a product
    with a matrix per side, because runtimes differ in their bicubic interpolation, and few weigh pixels in this way.
    Some values between two levels are rounded differently; a squashed image may differ by a few levels more, because
    Pillow 13 resizes the columns of some images first.

    Raises ValueError for a crop mode or an interpolation that is not implemented.
    """

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        channels, height, width = preprocessing.input_size
        if channels != 3:
            raise InvalidValueError(f"preprocessing in a file is for RGB images, the model takes {channels} channels")
        if preprocessing.interpolation not in INTERPOLATIONS:
            raise InvalidValueError(
                f"preprocessing in a file resizes {' or '.join(INTERPOLATIONS)}, not {preprocessing.interpolation}"
            )
        if preprocessing.crop_mode not in CROPS or (preprocessing.crop_mode == "center" and height != width):
            raise InvalidValueError(
                "preprocessing in a file crops squares from the centre or squashes, "
                f"not {preprocessing.crop_mode!r} of {height}×{width}"
            )
        self.size = height, width
        self.scale_size = tuple(math.floor(side / preprocessing.crop_pct) for side in self.size)
        self.squash = preprocessing.crop_mode == "squash"
        self.cubic = preprocessing.interpolation == "bicubic"
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        def whole(side: int) -> Tensor:
            return torch.full([], side, dtype=torch.int64, device=images.device)

        height, width = whole(images.shape[1]), whole(images.shape[2])
        kept_height, kept_width = height, width
        if self.squash:
            target_height, target_width = whole(self.scale_size[0]), whole(self.scale_size[1])
        else:
            kept_height = torch.minimum(height, MAX_ASPECT * width)
            kept_width = torch.minimum(width, MAX_ASPECT * height)
            short = torch.minimum(kept_height, kept_width)
            target_height, target_width = (self.scale_size[0] * kept // short for kept in (kept_height, kept_width))
        across = self._resizing(images.shape[2], kept_width, target_width, self.size[1])
        down = self._resizing(images.shape[1], kept_height, target_height, self.size[0])
        x = _to_levels(images.permute(0, 3, 1, 2).float() @ across.transpose(0, 1))
        x = _to_levels(down @ x)
        return (x / 255 - self.mean) / self.std

    def _resizing(self, length: int, kept: Tensor, target: Tensor, cropped: int) -> Tensor:
        """(cropped, length): row i holds the weights of the pixels for pixel i of the crop.

        The middle `kept` pixels become `target` pixels. The distance of two centres is a fraction of integers, so it is
        exact up to a division.
        """
        pixel = torch.arange(length, device=kept.device) - (length - kept) // 2  # counted from the first kept pixel
        new = torch.arange(cropped, device=kept.device).unsqueeze(1) + _half(target - cropped)
        distance = (2 * pixel + 1) * target - (2 * new + 1) * kept  # in halves of 1 / target pixels
        weight = self._filter(distance.float() / (2 * torch.maximum(kept, target)).float())
        weight = weight * ((pixel >= 0) & (pixel < kept))
        return weight / weight.sum(1, keepdim=True)

    def _filter(self, distance: Tensor) -> Tensor:
        """Weight by distance: a triangle, or Keys' cubic with a = -1/2 (IEEE ASSP 29, 1981, eq. 15)."""
        x = torch.maximum(distance, -distance)  # OpenVINO's abs overwrites constants
        if not self.cubic:
            return (1 - x).clamp(min=0)
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _half(difference: Tensor) -> Tensor:
    """Half of an integer, rounded to even."""
    low = difference // 2
    return low + (difference % 2) * (low % 2)


def _to_levels(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)
