"""The embedded set `shapes` with boxes and masks."""

import numpy as np
import pytest

from glocal.data.formats import shape_objects, shapes
from glocal.data.open import open_for_evaluation
from glocal.data.samples import Opening

SMALL = Opening(args={"size": 64, "count": 8})


@pytest.fixture(scope="module")
def source():
    return shape_objects.open_training("shapes", SMALL)


def test_what_the_set_is(source):
    assert (source.task, source.img_size) == ("detection", 64)
    assert source.class_names == ["circle", "square", "triangle", "star", "ring"]
    assert source.about == {"ids": [1, 2, 3, 4, 5], "masks": True}
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 8, "val": 2}


def test_masks_and_boxes_around_what_is_seen(source):
    maps = shapes.open_training("shapes", SMALL).splits["train"]
    for place, objects in enumerate(source.splits["train"].labels):
        assert np.array_equal(source.splits["train"].images[place], maps.images[place])
        for mask, box, label, area in zip(
            objects.masks((64, 64)), objects.boxes, objects.labels, objects.areas, strict=True
        ):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert set(maps.labels[place].labels[mask]) == {label + 1}
            assert area == mask.sum()
        assert objects.masks((64, 64)).sum() == (maps.labels[place].labels > 0).sum()


def test_both_splits_for_evaluation():
    source, split = open_for_evaluation("shapes", how=SMALL, formats=[shape_objects])
    assert (split, len(source.splits["val"])) == ("val", 2)
