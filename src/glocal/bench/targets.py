"""Made-up targets of a training: label maps, and objects with boxes and masks; the same for every model."""

import math

import torch
from torch import Tensor

from glocal.data.masks import IGNORE

CLASSES_OF_AN_IMAGE = 10  # about as many as an image of ADE20K has; Mask2Former's loss depends on it
BLOCK = 32  # pixels of a side of the areas of one class
IGNORED = 0.2  # part of the areas
OBJECTS_OF_AN_IMAGE = 8  # images of COCO have 7.3 on average
SIDES = 1 / 64, 1 / 2  # of an object, as parts of the image's shorter side
ASPECT = 2.0  # largest ratio of an object's sides


def label_maps(count: int, size: tuple[int, int], classes: int) -> Tensor:
    """(count, H, W) int64: blocks of random classes, a few for each image; a fifth of the blocks is ignored."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    maps = []
    for _ in range(count):
        chosen = torch.randperm(classes, generator=generator)[:CLASSES_OF_AN_IMAGE]
        blocks = chosen[torch.randint(len(chosen), (rows, columns), generator=generator)]
        blocks[torch.rand(rows, columns, generator=generator) < IGNORED] = IGNORE
        maps.append(blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:height, :width])
    return torch.stack(maps)


def objects(
    count: int, size: tuple[int, int], classes: int, masks: bool, device: torch.device | None = None
) -> list[dict[str, Tensor]]:
    """Targets of a detector for images (H, W): objects of random places and classes, small ones as often as large ones.

    masks: whether they have masks, (N, H, W) bool: ellipses in their boxes. See `glocal.tasks.detection.transform`.
    """
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([size[1], size[0]])
    targets = []
    for _ in range(count):
        side, aspect, *places = torch.rand(4, OBJECTS_OF_AN_IMAGE, generator=generator)
        smallest, largest = (math.log(part * min(size)) for part in SIDES)
        side = (smallest + (largest - smallest) * side).exp()
        stretch = ASPECT ** (aspect - 0.5)
        sides = torch.stack((side * stretch, side / stretch), 1).clamp(min=1).minimum(extent)
        corner = torch.stack(places, 1) * (extent - sides)
        target = {
            "boxes": torch.cat((corner, corner + sides), 1),
            "labels": torch.randint(classes, (OBJECTS_OF_AN_IMAGE,), generator=generator),
            "size": torch.tensor(size),
        }
        if masks:
            target["masks"] = _ellipses(target["boxes"], size)
        targets.append({name: value.to(device) for name, value in target.items()})
    return targets


def _ellipses(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixels of an image whose middle is in the ellipse of each box: (N, 4) to (N, H, W) bool."""
    middle, radius = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    x, y = (
        ((torch.arange(n) + 0.5 - middle[:, i, None]) / radius[:, i, None]).square() for i, n in enumerate(size[::-1])
    )
    return y[:, :, None] + x[:, None] <= 1
