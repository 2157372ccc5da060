"""An image with its objects, and changes of both together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2


@dataclass(frozen=True)
class Picture:
    """An image and its objects.

    pixels: (C, H, W), uint8, or float32 of 0…1. boxes: (N, 4) float64, x1, y1, x2, y2 in pixels. labels: (N,) int64.
    masks: (N, H, W) bool; None: not asked for.
    """

    pixels: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.pixels.shape[1:]
        return height, width

    def of(self, chosen: Tensor) -> "Picture":
        """The picture with some of its objects. chosen: (N,) bool, or places."""
        masks = None if self.masks is None else self.masks[chosen]
        return replace(self, boxes=self.boxes[chosen], labels=self.labels[chosen], masks=masks)

    def visible(self) -> "Picture":
        """Boxes clipped to the image, without the objects whose box has no extent, or whose mask has no pixel."""
        height, width = self.size
        clipped = replace(self, boxes=self.boxes.clamp(min=0).minimum(self.boxes.new_tensor([width, height] * 2)))
        there = (clipped.boxes[:, 2:] > clipped.boxes[:, :2]).all(1)
        if self.masks is not None:
            there &= self.masks.flatten(1).any(1)
        return clipped if there.all() else clipped.of(there)

    def single_precision(self) -> "Picture":
        """Boxes in float32, without the objects whose boxes then have no extent: it has 1/16384 pixel at 1000."""
        rounded = replace(self, boxes=self.boxes.float())
        there = (rounded.boxes[:, 2:] > rounded.boxes[:, :2]).all(1)
        return rounded if there.all() else rounded.of(there)


def resized(picture: Picture, size: Sequence[int], label_interpolation: str = "nearest-exact") -> Picture:
    """The picture at another (height, width): bilinear without antialias, as OpenCV and the published trainings."""
    if tuple(size) == picture.size:
        return picture
    factors = [new / old for new, old in zip(size, picture.size, strict=True)][::-1] * 2
    masks = picture.masks
    if masks is not None:
        masks = v2.resize(masks.byte(), list(size), InterpolationMode(label_interpolation)).bool()
    pixels = v2.resize(picture.pixels, list(size), InterpolationMode.BILINEAR, antialias=False)
    return replace(picture, pixels=pixels, boxes=picture.boxes * picture.boxes.new_tensor(factors), masks=masks)


def cropped(picture: Picture, place: tuple[slice, slice]) -> Picture:
    """A part of the picture with what is seen of its objects. place: rows and columns."""
    rows, columns = place
    moved = replace(
        picture,
        pixels=picture.pixels[:, rows, columns],
        boxes=picture.boxes - picture.boxes.new_tensor([columns.start, rows.start] * 2),
        masks=None if picture.masks is None else picture.masks[:, rows, columns],
    )
    return moved.visible()


def mirrored(picture: Picture) -> Picture:
    """The picture with left and right exchanged."""
    left, top, right, bottom = picture.boxes.unbind(1)
    width = picture.size[1]
    boxes = torch.stack([width - right, top, width - left, bottom], 1)
    masks = None if picture.masks is None else picture.masks.flip(-1)
    return replace(picture, pixels=picture.pixels.flip(-1), boxes=boxes, masks=masks)


def pasted(ground: Picture, other: Picture) -> Picture:
    """The objects of another picture, as their masks show them, over a picture (Ghiasi et al., arXiv 2012.07177).

    Both begin at the top left corner; what reaches beyond the ground is cut off. Objects of the ground lose what is
    covered, and their boxes shrink with it; they are left out if nothing is left.
    """
    rows, columns = (slice(0, min(sides)) for sides in zip(ground.size, other.size, strict=True))
    other = cropped(other, (rows, columns))
    if not len(other.labels):
        return ground
    covered = torch.zeros(ground.size, dtype=torch.bool)
    covered[rows, columns] = other.masks.any(0)
    pixels = ground.pixels.clone()
    pixels[:, rows, columns] = torch.where(covered[rows, columns], other.pixels, pixels[:, rows, columns])
    masks = ground.masks & ~covered
    changed = (masks != ground.masks).flatten(1).any(1)
    boxes = torch.where(changed[:, None], boxes_of_masks(masks), ground.boxes)
    added = torch.zeros(len(other.labels), *ground.size, dtype=torch.bool)
    added[:, rows, columns] = other.masks
    return Picture(
        pixels,
        torch.cat([boxes, other.boxes]),
        torch.cat([ground.labels, other.labels]),
        torch.cat([masks, added]),
    ).visible()


def boxes_of_masks(masks: Tensor) -> Tensor:
    """(N, 4) float64: the smallest box around each mask (N, H, W), with the ends of the last pixels; 0 of an empty one.

    torchvision's masks_to_boxes gives the places of the last pixels, so that a box lacks a row and a column.
    """
    ends = []
    for axis in (1, 2):  # of x, then of y
        there = masks.any(axis)
        length = there.shape[1]
        first, last = there.byte().argmax(1), length - there.byte().flip(1).argmax(1)
        ends.append((first, torch.where(there.any(1), last, first)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], 1).double()


def joined(parts: Sequence[tuple[Picture, tuple[int, int]]], size: tuple[int, int]) -> Picture:
    """Pictures at places of a canvas of (height, width). parts: pictures, each with (top, left)."""
    first = parts[0][0]
    pixels = first.pixels.new_zeros(len(first.pixels), *size)
    boxes, masks = [], []
    for part, (top, left) in parts:
        place = slice(top, top + part.size[0]), slice(left, left + part.size[1])
        pixels[(slice(None), *place)] = part.pixels
        boxes.append(part.boxes + part.boxes.new_tensor([left, top] * 2))
        if part.masks is not None:
            masks.append(torch.zeros(len(part.labels), *size, dtype=torch.bool))
            masks[-1][(slice(None), *place)] = part.masks
    labels = torch.cat([part.labels for part, _ in parts])
    return Picture(pixels, torch.cat(boxes), labels, torch.cat(masks) if masks else None).visible()
