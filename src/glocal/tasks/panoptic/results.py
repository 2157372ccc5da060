"""From segments to results."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from glocal.data.masks import IGNORE
from glocal.data.segments import texts_of_labels
from glocal.tasks.panoptic.drawing import colors_of_segments
from glocal.tasks.panoptic.result import Panoptic
from glocal.tasks.task import Trained


def results(outputs: Sequence[Sequence[Tensor]], trained: Trained) -> list[Panoptic]:
    """The result for each image. outputs: ids (H, W), classes (S,) and scores (S,) of each."""
    return [result(*(one.numpy() for one in image), trained) for image in zip(*outputs, strict=True)]


def result(ids: np.ndarray, classes: np.ndarray, scores: np.ndarray, trained: Trained) -> Panoptic:
    """The result of an image. ids: (H, W). classes, scores: (S,), of segments with a pixel each."""
    pixels = np.bincount(ids[ids != IGNORE], minlength=len(classes))
    order = np.argsort(-pixels, kind="stable")
    places = np.append(np.argsort(order), IGNORE).astype(np.int32)
    ids = places[ids]  # IGNORE, -1, takes the last
    return Panoptic(
        size=list(ids.shape),
        classes=[trained.descriptions[label] for label in classes[order]],
        scores=[float(score) for score in scores[order]],
        shares=[float(count / ids.size) for count in pixels[order]],
        rles=texts_of_labels(ids, range(len(order))),
        ids=ids,
        colors=colors_of_segments(len(order)),
        numbers=classes[order].tolist(),
    )
