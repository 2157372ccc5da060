"""The embedded set `shapes`, with a box and a mask of each drawn object."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from glocal.data.formats import shapes
from glocal.data.objects import Objects, Runs
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.segments import runs_of_mask, text_of_runs

ARGS = shapes.ARGS
ONLY_ASKED = True  # without --task, the set is one of label maps
CLASSES = shapes.CLASSES[1:]  # without the background

matches = shapes.matches


def open_training(data: str, how: Opening) -> DataSource:
    return _with_objects(shapes.open_training(data, how))


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    return _with_objects(shapes.open_evaluation(data, how, held_out))


def _with_objects(source: DataSource) -> DataSource:
    splits: Mapping[str, Any] = {
        split: Samples(samples.images, [_objects_of(one) for one in samples.labels])
        for split, samples in source.splits.items()
    }
    about = {"ids": list(range(1, len(CLASSES) + 1)), "masks": True}
    return DataSource(
        source.name, list(CLASSES), splits, img_size=source.img_size, notes=source.notes, task="detection", about=about
    )


def _objects_of(drawn: shapes.ShapesMap) -> Objects:
    """The boxes around what is seen of each object, from the back to the front."""
    found, size = drawn.objects, drawn.numbers.shape
    return Objects(
        np.array([one.box for one in found], np.float64).reshape(-1, 4),
        np.array([one.label - 1 for one in found], np.int64),
        np.zeros(len(found), bool),
        np.array([np.count_nonzero(one.mask) for one in found], np.float64),
        tuple(msgspec.json.encode(Runs(size, text_of_runs(runs_of_mask(one.mask)))) for one in found),
        size,
    )
