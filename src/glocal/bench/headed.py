"""Backbones with a head for a comparison, backbones alone, and their losses on made-up targets."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from glocal.bench import targets
from glocal.bench.config import DEFAULTS, parse_model
from glocal.data.batch import Batch
from glocal.data.samples import DataSource
from glocal.models.create import ADE20K, COCO, add_head
from glocal.models.dense import dense_backbone
from glocal.models.detectors import DETECTORS
from glocal.models.headed import HeadedModel
from glocal.tasks.registry import find_task
from glocal.tasks.task import Task


def task_of(head: str) -> Task:
    """The task of a head's results."""
    return find_task(next(name for name in ("segmentation", "instances", "detection") if head in DEFAULTS[name].heads))


def sized(name: str, size: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a model for images (H, W), of which a model that is built for one size is told."""
    name, options = parse_model(name)
    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    return name, ({"img_size": size} if fixed else {}) | options


def backbone(name: str, size: tuple[int, int]) -> nn.Module:
    """A model of timm's registry, with or without arguments, as images to four maps.

    size: (H, W) of the images, for models that are built for one size.
    """
    name, options = sized(name, size)
    return dense_backbone(name, **options)


def with_head(name: str, head: str, size: tuple[int, int], head_args: Mapping[str, Any] | None = None) -> HeadedModel:
    """The same with a head for the classes of the authors' data: 150 for segmentation, 80 for objects."""
    return add_head(backbone(name, size), head, None, head_args or {})


def loss_of(model: nn.Module, head: str, images: Tensor) -> Callable[[], Tensor]:
    """A function that computes the loss of a training on images and made-up targets.

    head: the model's; "" for a backbone alone, whose loss is the mean square of each map, added up.
    """
    if not head:
        return lambda: torch.stack([found.square().mean() for found in model(images)]).sum()
    task, of_objects = task_of(head), head in DETECTORS
    names = [str(number) for number in range(COCO if of_objects else ADE20K)]
    if of_objects:
        wanted = targets.objects(len(images), images.shape[2:], len(names), task.masks, images.device)
    else:
        wanted = targets.label_maps(len(images), images.shape[2:], len(names)).to(images.device)
    objective = task.objective(task.Options(head=head), DataSource("made up", names, {}), None)
    objective.to(images.device)
    batch = Batch(images, wanted, [], [])
    return lambda: objective(model, batch)["loss"]
