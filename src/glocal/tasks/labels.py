"""What the tasks of labels for whole images have in common."""

from collections.abc import Callable, Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor

from glocal.data.batch import Example
from glocal.data.geometry import geometry_of
from glocal.data.names import class_name
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.data.samples import DataSource
from glocal.errors import InvalidValueError
from glocal.tasks.label_options import LabelOptions
from glocal.tasks.loading import Trained, check_finite
from glocal.tasks.measurement import Measured
from glocal.tasks.prediction import Prediction
from glocal.tasks.task import ResultTable
from glocal.wording import quoted

SMALL = 64  # pixels: below, an image has no margin to spare


class LabelTransform:
    """An RGB image and its annotation to an `Example`; without an augmentation, with its geometry.

    target: what a loss takes for an annotation, such as `several` for a tuple of labels; by default the annotation.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        target: Callable[[object], object] = lambda label: label,
    ):
        self.preprocessing = None if augmentation else preprocessing
        self.path = preprocessing.training_transform(augmentation) if augmentation else preprocessing.transform()
        self.target = target

    def __call__(self, image: Image.Image, annotation: object) -> Example:
        geometry = None if self.preprocessing is None else geometry_of(self.preprocessing, image.size[::-1])
        return Example(self.path(image), self.target(annotation), geometry)


def several(labels: tuple[int, ...], classes: int) -> Tensor:
    """(classes,) with a one for each of the labels, else zeros."""
    target = torch.zeros(classes)
    target[list(labels)] = 1
    return target


def augmentation(options: LabelOptions, source: DataSource, preprocessing: Preprocessing) -> Augmentation:
    """What the options say, and what suits the data where they say nothing."""
    small = min(preprocessing.input_size[1:]) <= SMALL
    hflip = source.hflip if options.hflip is None else options.hflip
    return Augmentation(
        crop_scale=options.crop_scale or (0.6 if small else 0.35),
        crop_ratio=3 / 4,
        hflip=0.5 if hflip is None else hflip,
        color_jitter=options.color_jitter,
        auto_augment=options.auto_augment,
        random_erasing=options.random_erasing,
        interpolation=options.train_interpolation,
    )


def predictions(probabilities: Tensor, class_names: Sequence[str], top_k: int) -> list[Prediction]:
    """The most probable classes of each image: probabilities (B, classes). RuntimeError for NaN and infinity."""
    values, indices = check_finite(probabilities).cpu().topk(min(top_k, len(class_names)))
    return [
        Prediction(labels=[class_names[index] for index in of_image], probabilities=row)
        for of_image, row in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def outputs_of(source: DataSource, trained: Trained) -> list[int]:
    """The output for each of the data's classes, matched by name; ValueError for a class that the model lacks."""
    known = {class_name(name): output for output, name in enumerate(trained.class_names)}
    unknown = [name for name in source.class_names if name not in known]
    if unknown:
        raise InvalidValueError(
            f"{source.name} holds classes that {trained.name} was not trained on: {quoted(unknown, 3)} "
            f"(it knows {quoted(trained.class_names, 3)})"
        )
    return [known[name] for name in source.class_names]


def readable(trained: Trained, outputs: Iterable[int]) -> list[str]:
    """Names of outputs: as the data calls them, with what that means where it is a WordNet id."""
    names, meanings = trained.class_names, trained.descriptions
    return [names[i] if names[i] == meanings[i] else f"{names[i]} ({meanings[i].split(',')[0]})" for i in outputs]


def worst_classes(result: Measured, score: str, limit: int = 10) -> list[dict]:
    """The entries of per_class with the lowest score."""
    return sorted(result.values.get("per_class", []), key=lambda one: one[score])[:limit]


def table_of_worst(result: Measured, score: str) -> list[ResultTable]:
    """The worst classes as a table; none where no class is measured by itself."""
    rows = [[one["name"], f"{one[score]:.2f} %", f"{one['images']:,}"] for one in worst_classes(result, score)]
    return [ResultTable("worst classes", ["class", score.replace("_", " "), "images"], rows)] if rows else []
