"""From an image and its label to the tensors of a batch."""

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from glocal.data.batch import Example
from glocal.data.geometry import geometry_of
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.data.samples import DataSource
from glocal.tasks.labels.options import LabelOptions

SMALL = 64  # pixels: a smaller image has no margin to spare


class LabelTransform:
    """Makes an `Example` of an RGB image and its annotation; without an augmentation, with the geometry.

    target: turns an annotation into what the loss takes, as `multi_hot` does for a tuple of labels; by default the
    annotation itself.
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


def multi_hot(labels: tuple[int, ...], classes: int) -> Tensor:
    """(classes,): 1 for each of the labels, else 0."""
    target = torch.zeros(classes)
    target[list(labels)] = 1
    return target


def augmentation(options: LabelOptions, source: DataSource, preprocessing: Preprocessing) -> Augmentation:
    """The random changes that the options name; for an option that is not given, a value that suits the data."""
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
