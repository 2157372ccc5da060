"""A picture of the images that a training sees first, with their targets."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from glocal.data.geometry import Geometry
from glocal.data.loaders import end_workers
from glocal.data.preprocessing import Preprocessing
from glocal.data.raster import as_picture
from glocal.errors import InvalidValueError
from glocal.figures import end_of_path
from glocal.files import write_atomically
from glocal.tasks.drawing import GREY, Entry, grid, readable, with_caption
from glocal.training.loaders import loader_of
from glocal.training.prepare import Run

MOST = 16  # images in a picture

log = logging.getLogger(__name__)


def write(run: Run, file: str) -> None:
    """Write the picture of a run's first batch as a PNG file."""
    write_atomically(file, partial(draw(run).save, format="PNG"))


def draw(run: Run) -> Image.Image:
    """The first images of a run, at most 16, each with its target; pixels are those that the model gets."""
    names, args = run.source.class_names, run.task_args
    cells = []
    for image, target, name in first_images(run):
        shown = readable(as_image(image, run.preprocessing))
        cell = run.task.draw_target(shown, target, names, args)
        cells.append(with_caption(cell, [Entry(name, color=GREY)], size=13))
    if not cells:
        raise InvalidValueError("none of the images of the first batch can be read")
    picture = grid(cells)
    size = "×".join(map(str, run.preprocessing.input_size[1:]))
    title = (
        f"{end_of_path(run.source.name)}: {len(cells)} of the {run.batch_size:,} images of the first batch, "
        f"as the model gets them ({size} pixels)"
    )
    return with_caption(picture, [Entry(f" {title}")], above=True)


def first_images(run: Run) -> Iterator[tuple[Tensor, Any, str]]:
    """The images (C, H, W), targets and names of the run's first batch, in order, at most 16.

    They are those of all devices together, because the order does not depend on the number of devices.
    """
    loader = loader_of(run, targets=list)
    count = min(MOST, run.batch_size)
    try:
        for batch in loader:
            for reason in batch.skipped:
                log.warning("skipped %s", reason)
            yield from list(zip(map(_own_part, batch.images, batch.geometry), batch.targets, batch.names, strict=True))[
                :count
            ]
            count -= len(batch)
            if count <= 0 or not len(batch):
                return
    finally:
        end_workers(loader)


def _own_part(image: Tensor, geometry: Geometry | None) -> Tensor:
    """The part of an image (C, H, W) that shows it, without what it or the batch has added."""
    if geometry is None:
        return image
    height, width = geometry.input_size
    return image[:, :height, :width]


def as_image(image: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """The pixels of an image (C, H, W) before they were normalised, as RGB; of other channels the first three, or one.

    What lies outside 0…255 is cut off; the bands of rasters are spread over all levels.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = image * std + mean
    if preprocessing.bands is not None:
        return as_picture(pixels.permute(1, 2, 0).numpy())
    levels = (pixels * 255).round().clamp(0, 255).byte()
    levels = levels[:3] if len(levels) >= 3 else levels[:1].expand(3, -1, -1)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
