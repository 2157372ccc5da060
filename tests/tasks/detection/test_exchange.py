"""Results as supervision's objects, which its own programs take."""

import sys

import numpy as np
import pytest
import supervision

from glocal.data.image import UnreadableImageError
from glocal.data.segments import runs_of_mask, text_of_runs
from glocal.tasks.detection.result import Detection
from glocal.tasks.instances.result import Instances

BOXES = [[2.5, 3, 20, 18], [3, 3, 20, 18], [30, 10, 50, 35]]
SCORES, CLASSES, NUMBERS = [0.9, 0.6, 0.3], ["cat", "cat", "dog"], [4, 4, 1]
FIELDS = {"size": [40, 60], "classes": CLASSES, "scores": SCORES, "boxes": BOXES, "numbers": NUMBERS}


def masks():
    found = np.zeros((3, 40, 60), bool)
    for mask, (left, top, right, bottom) in zip(found, np.array(BOXES).astype(int), strict=True):
        mask[top:bottom, left:right] = True
        mask[top] = False  # they are no boxes
    return found


def boxes_alone():
    return Detection(**FIELDS)


def with_masks():
    return Instances(**FIELDS, rles=[text_of_runs(runs_of_mask(mask)) for mask in masks()])


def test_boxes():
    found = boxes_alone().to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == BOXES
    assert found.confidence.tolist() == SCORES
    assert found.class_id.tolist() == NUMBERS
    assert found["class_name"].tolist() == CLASSES
    assert found.mask is None


def test_masks():
    assert np.array_equal(with_masks().to_supervision().mask, masks())


@pytest.mark.parametrize("result", [boxes_alone(), with_masks()], ids=["boxes", "masks"])
@pytest.mark.parametrize(("least", "count"), [(0.6, 2), (0.95, 0)])
def test_objects_with_lower_scores_are_left_out(result, least, count):
    found = result.to_supervision(least)
    assert len(found) == count
    assert found["class_name"].tolist() == CLASSES[:count]
    assert found.mask is None or np.array_equal(found.mask, masks()[:count])


def test_nothing_found():
    found = Instances(size=[40, 60]).to_supervision()
    assert len(found) == 0
    assert found.mask.shape == (0, 40, 60)
    assert len(found.with_nms()) == 0


def test_an_unreadable_image_has_nothing():
    assert len(Instances("a.png", UnreadableImageError("a.png", "broken")).to_supervision()) == 0


@pytest.mark.parametrize("result", [boxes_alone(), with_masks()], ids=["boxes", "masks"])
def test_its_programs_take_them(result):
    found = result.to_supervision()
    assert found.with_nms(0.5)["class_name"].tolist() == ["cat", "dog"]  # the second cat lies on the first
    image = np.zeros((40, 60, 3), np.uint8)
    kinds = [supervision.BoxAnnotator(), supervision.LabelAnnotator()]
    for annotator in [*kinds, supervision.MaskAnnotator()][: 2 + (found.mask is not None)]:
        assert annotator.annotate(image.copy(), found).any()


def test_one_line_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'glocal\[supervision\]'"):
        boxes_alone().to_supervision()
