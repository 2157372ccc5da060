"""A task from outside the library: by how many degrees an image was turned. As a program, it is `glocal` with it."""

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import ImageDraw
from torch.nn import functional as F

import glocal
from glocal.data.batch import Example
from glocal.data.geometry import geometry_of
from glocal.data.samples import DataSource, Samples
from glocal.data.splits import fingerprint, stratified_split
from glocal.tasks.loading import check_finite
from glocal.tasks.metrics import Metrics
from glocal.tasks.task import LOSS, Line, Measure, Objective, Result, Task


class TurnedImages:
    """A folder of images with angles.csv: a file name and an angle in degrees per row."""

    def matches(self, data):
        return (Path(data) / "angles.csv").is_file()

    def open_training(self, data, how):
        samples = self.samples(data)
        held_out = {"val_fraction": how.val_fraction or 0.2, "seed": how.seed, "files": self.key(samples)}
        return DataSource(data, [], self.drawn(samples, held_out), held_out, task="angle")

    def open_evaluation(self, data, how, held_out):
        samples = self.samples(data)
        again = bool(held_out) and held_out["files"] == self.key(samples)
        return DataSource(data, [], self.drawn(samples, held_out) if again else {"all": samples}, task="angle")

    def samples(self, data):
        with open(Path(data) / "angles.csv", newline="") as file:
            rows = list(csv.reader(file))
        return Samples([str(Path(data) / name) for name, _ in rows], [float(angle) for _, angle in rows])

    def drawn(self, samples, held_out):
        train, val = stratified_split([0] * len(samples), held_out["val_fraction"], held_out["seed"])
        return {"train": samples.subset(train), "val": samples.subset(val)}

    def key(self, samples):
        return fingerprint(Path(image).name for image in samples.images)


@dataclass(frozen=True)
class AngleOptions:
    """Options of the angle's loss.

    Args:
        smooth_beta: distance from which on the loss is linear
    """

    smooth_beta: float = 0.1


@dataclass(frozen=True)
class Turn(Result):
    """By how many degrees an image is turned, against the clock."""

    angle: float | None = None

    def lines(self):
        return [Line("turned by", f"{self.angle:.1f}°")]

    def draw(self, image):
        image, (x, y) = image.copy(), (image.width / 2, image.height / 2)
        dx, dy = (0.45 * min(image.size) * f(math.radians(self.angle)) for f in (math.sin, math.cos))
        ImageDraw.Draw(image).line((x, y, x - dx, y - dy), fill=(255, 0, 0), width=max(2, image.width // 50))
        return image


class AngleMetrics(Metrics):
    def update(self, outputs, targets):
        loss = F.smooth_l1_loss(outputs.float(), targets, reduction="none").mean(1)
        difference = torch.rad2deg(radians(outputs) - radians(targets)).abs()
        self.keep(loss=loss, error=torch.minimum(difference, 360 - difference))

    def compute(self):
        values = {"loss": "loss", "degrees": "error"}
        return {key: self.kept(name).double().mean().item() for key, name in values.items()} if self.images else {}


class AngleObjective(Objective):
    def __init__(self, beta):
        self.beta = beta

    def __call__(self, model, batch):
        return {"loss": F.smooth_l1_loss(model(batch.images).float(), batch.targets, beta=self.beta)}


class Angle(Task):
    name = "angle"
    summary = "the angle by which an image was turned"
    Options = AngleOptions
    result_class = Turn
    measures = (Measure("degrees", "mean error", "°", 1, higher_is_better=False), LOSS)
    formats = (TurnedImages(),)
    fields = {"angle": float}  # noqa: RUF012
    output_names = ("direction",)

    def num_outputs(self, class_names):
        return 2  # cosine and sine

    def transform(self, preprocessing, class_names, augmentation=None):
        path = preprocessing.transform()

        def transform(image, angle):
            direction = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
            return Example(path(image), direction, geometry_of(preprocessing, image.size[::-1]))

        return transform

    def objective(self, options, source, preprocessing):
        return AngleObjective(options.smooth_beta)

    def metrics(self, class_names):
        return AngleMetrics(class_names)

    def results(self, outputs, geometry, trained, top_k):
        return [Turn(angle=angle) for angle in torch.rad2deg(radians(check_finite(outputs[0]))).tolist()]


def radians(directions):
    return torch.atan2(directions[:, 1].float(), directions[:, 0].float())


ANGLE = Angle()

if __name__ == "__main__":
    from glocal.cli import main

    glocal.register_task(ANGLE)
    sys.exit(main())
