"""Pictures of the images that a model predicts worst."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from glocal.data.batch import Collate, Item
from glocal.data.image import UnreadableImageError
from glocal.data.raster import as_picture
from glocal.data.shards import ShardedSamples
from glocal.device import to_cpu
from glocal.errors import InvalidValueError
from glocal.files import numbered_name, write_atomically
from glocal.tasks.drawing import GREY, Entry, framed, readable, with_caption
from glocal.tasks.task import Measurement, Pass, Trained

MOST = 16  # pictures
TOP = 3  # answers in a picture, if the task ranks answers
LEAST_SIDE = 280  # pixels of an image in a picture

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worst:
    """An image that was predicted badly. index: its place in the samples. score: as the task's `score` says it."""

    index: int
    name: str
    score: float


def check(measurement: Measurement) -> Pass:
    """The pass of a measurement, which will keep which images it measures; ValueError if these cannot be drawn."""
    if len(measurement.passes) > 1:
        raise InvalidValueError(
            "--pictures is for one pass over the images, not for --sizes, --corruptions and --set imagenet-c"
        )
    (one,) = measurement.passes
    if isinstance(one.samples, ShardedSamples):
        raise InvalidValueError("--pictures reads the worst images again, which shards do not allow")
    if not one.scores_images:
        raise InvalidValueError(f"--pictures: this measurement of {one.task.name} has no score for each image")
    one.indices = []
    return one


def worst_of(one: Pass, count: int = MOST) -> list[Worst]:
    """The images with the lowest scores, the worst first; of equal ones the first."""
    scores = one.metrics.scores()
    sign = 1 if one.task.score.higher_is_better else -1
    order = scores.argsort(stable=True)[:count].tolist()
    places = [one.indices[row] for row in order]
    return [
        Worst(place, one.samples.name(place), sign * scores[row].item())
        for row, place in zip(order, places, strict=True)
    ]


def write(one: Pass, worst: list[Worst], trained: Trained, device: torch.device, folder: Path) -> None:
    """Write a PNG file of each image, with its annotation and the model's prediction: 00-NAME.png is the worst."""
    for number, image in enumerate(worst):
        try:
            picture = draw(one, image, trained, device)
        except UnreadableImageError as error:  # removed or changed since it was measured
            log.warning("no picture of %s", error)
            continue
        name = numbered_name(number, image.name, ".png", digits=2)
        write_atomically(folder / name, partial(picture.save, format="PNG"))


def draw(one: Pass, worst: Worst, trained: Trained, device: torch.device) -> Image.Image:
    """An image with its annotation, the prediction that was measured, its score and its name."""
    image = one.samples.load(worst.index)
    example = one.transform(image, one.samples.labels[worst.index])
    batch = Collate(targets=one.task.collate)([Item(example)]).to(device)
    model = trained.task.outputs(trained.model).to(device, memory_format=torch.channels_last).eval()
    batch = replace(batch, images=batch.images.to(memory_format=torch.channels_last))
    with torch.inference_mode():
        found = trained.task.predict(model, batch, trained.task_args | one.args)
        outputs, targets = one.match.apply(found, batch.targets)
    names = one.match.class_names
    measured = replace(trained, descriptions=names, task_args=trained.task_args | one.args)
    (result,) = one.task.results(to_cpu(outputs), batch.geometry, measured, TOP)
    target = targets[0].cpu() if isinstance(targets[0], Tensor) else targets[0]
    shown = readable(image if isinstance(image, Image.Image) else as_picture(image), LEAST_SIDE)
    drawn = one.task.draw_comparison(shown, target, result, names, trained.task_args)
    score = Entry(f"{one.task.score.title} {one.task.score.shown(worst.score)}")
    return framed(with_caption(drawn, [score, Entry(worst.name, color=GREY)], above=True))
