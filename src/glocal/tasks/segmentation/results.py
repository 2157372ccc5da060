"""From label maps to results."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from glocal.data.segments import texts_of_labels
from glocal.data.tiles import Tile
from glocal.tasks.segmentation.overlay import colors_of
from glocal.tasks.segmentation.result import Segmentation
from glocal.tasks.task import Trained

AT_ONCE = 2**24  # pixels that are counted at a time


def results(outputs: Sequence[Sequence[Tensor]], trained: Trained) -> list[Segmentation]:
    """The result for each image. outputs: the label maps (H, W), and the confidence of each class (classes,)."""
    return [result(labels.numpy(), confidence.numpy(), trained) for labels, confidence in zip(*outputs, strict=True)]


def joined(parts: Iterable[tuple[Tile, Segmentation]], size: tuple[int, int], trained: Trained) -> Segmentation:
    """The result of a large image from those of its tiles, of which the middles count. size: (height, width)."""
    count = len(trained.class_names)
    labels = np.zeros(size, np.uint8 if count <= 256 else np.int32)
    pixels, sums = np.zeros(count), np.zeros(count)
    for tile, part in parts:
        top, left, *_ = tile.box
        first, begin, last, end = tile.middle
        labels[first:last, begin:end] = part.labels[first - top : last - top, begin - left : end - left]
        for number, share, confidence in zip(part.numbers, part.shares, part.confidences, strict=True):
            pixels[number] += share * part.labels.size
            sums[number] += share * part.labels.size * confidence
    return result(labels, sums / np.maximum(pixels, 1), trained)


def result(labels: np.ndarray, confidence: np.ndarray, trained: Trained) -> Segmentation:
    """The result of an image. labels: (H, W). confidence: (classes,)."""
    names = trained.descriptions
    pixels = sum(
        np.bincount(rows.ravel(), minlength=len(names)) for rows in np.array_split(labels, -(-labels.size // AT_ONCE))
    )
    numbers = [int(number) for number in np.argsort(-pixels, kind="stable") if pixels[number]]
    return Segmentation(
        size=list(labels.shape),
        classes=[names[number] for number in numbers],
        shares=[float(pixels[number] / labels.size) for number in numbers],
        confidences=[float(confidence[number]) for number in numbers],
        rles=texts_of_labels(labels, numbers),
        labels=labels,
        colors=colors_of(trained.task_args, len(trained.class_names)),
        numbers=numbers,
    )
