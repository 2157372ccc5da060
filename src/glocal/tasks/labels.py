"""What the tasks of labels for whole images have in common."""

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from glocal.data.batch import Example
from glocal.data.geometry import geometry_of
from glocal.data.preprocessing import Augmentation, Preprocessing


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
