"""Segmentation for a comparison: backbones with a head, backbones alone, and their losses on made-up label maps."""

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from glocal.bench.config import parse_model
from glocal.data.batch import Batch
from glocal.data.masks import IGNORE
from glocal.data.samples import DataSource
from glocal.tasks.registry import find_task

NAMES = [str(number) for number in range(150)]  # as many classes as ADE20K
CLASSES_OF_AN_IMAGE = 10  # about as many as an image of ADE20K has; Mask2Former's loss depends on it
BLOCK = 32  # pixels of a side of the areas of one class
IGNORED = 0.2  # part of the areas


def backbone(name: str, size: tuple[int, int]) -> nn.Module:
    """A model of timm's registry, with or without arguments, as images to four maps.

    size: (H, W) of the images, for models that are built for one size.
    """
    name, options = parse_model(name)
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        options = {"img_size": size} | options
    return find_task("segmentation").backbone(name, NAMES, **options)


def with_head(name: str, head: str, size: tuple[int, int]) -> nn.Module:
    """The same with a head for 150 classes."""
    return find_task("segmentation").model(backbone(name, size), NAMES, head=head)


def loss_of(model: nn.Module, head: str, images: Tensor) -> Callable[[], Tensor]:
    """A function that computes the loss of a training on images and made-up label maps.

    head: the model's; "" for a backbone alone, whose loss is the mean square of each map, added up.
    """
    if not head:
        return lambda: torch.stack([found.square().mean() for found in model(images)]).sum()
    task = find_task("segmentation")
    objective = task.objective(task.Options(head=head), DataSource("made up", NAMES, {}), None)
    objective.to(images.device)
    batch = Batch(images, label_maps(len(images), images.shape[2:]).to(images.device), [], [])
    return lambda: objective(model, batch)["loss"]


def label_maps(count: int, size: tuple[int, int]) -> Tensor:
    """(count, H, W) int64: blocks of random classes, a few for each image; a fifth of the blocks is ignored."""
    height, width = size
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    maps = []
    for _ in range(count):
        classes = torch.randperm(len(NAMES))[:CLASSES_OF_AN_IMAGE]
        blocks = classes[torch.randint(len(classes), (rows, columns))]
        blocks[torch.rand(rows, columns) < IGNORED] = IGNORE
        maps.append(blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:height, :width])
    return torch.stack(maps)
