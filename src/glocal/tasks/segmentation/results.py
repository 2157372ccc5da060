"""From label maps to results."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from glocal.data.masks import distinct_colors
from glocal.tasks.segmentation import rle
from glocal.tasks.segmentation.result import Segmentation
from glocal.tasks.task import Trained


def results(outputs: Sequence[Sequence[Tensor]], trained: Trained) -> list[Segmentation]:
    """The result for each image. outputs: the label maps (H, W), and the confidence of each class (classes,)."""
    return [result(labels.numpy(), confidence.numpy(), trained) for labels, confidence in zip(*outputs, strict=True)]


def result(labels: np.ndarray, confidence: np.ndarray, trained: Trained) -> Segmentation:
    """The result of an image. labels: (H, W). confidence: (classes,)."""
    names = trained.descriptions
    pixels = np.bincount(labels.ravel(), minlength=len(names))
    numbers = [int(number) for number in np.argsort(-pixels, kind="stable") if pixels[number]]
    return Segmentation(
        size=list(labels.shape),
        classes=[names[number] for number in numbers],
        shares=[float(pixels[number] / labels.size) for number in numbers],
        confidences=[float(confidence[number]) for number in numbers],
        rles=[rle.encode(labels == number) for number in numbers],
        labels=labels,
        colors=colors_of(trained),
        numbers=numbers,
    )


def colors_of(trained: Trained) -> list[list[int]]:
    """The colour of each class: the data's, or else distinct ones."""
    colors, count = trained.task_args.get("colors", []), len(trained.class_names)
    return colors if len(colors) == count else distinct_colors(count)
