"""The objects of an image."""

import json
import pickle

import numpy as np
import pytest

from glocal.data.objects import Objects, Runs
from glocal.data.segments import runs_of_mask, text_of_runs

SIZE = (5, 7)
TRIANGLE = [[1.0, 1.0, 5.0, 1.0, 1.0, 5.0]]
BAR = np.zeros(SIZE, bool)
BAR[1:3, 2:6] = True
BAR[0, 0] = True  # a second part


def as_json(value):
    return json.dumps(value).encode()


def runs(mask, as_text):
    counts = runs_of_mask(mask)
    return as_json({"size": list(mask.shape), "counts": text_of_runs(counts) if as_text else counts})


def objects(segments=(), count=3, size=SIZE):
    boxes = np.array([[0, 0, 2, 3], [1, 1, 5, 5], [2, 1, 6, 3]], np.float64)[:count]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Objects(boxes, np.arange(count), np.arange(count) == 2, areas, segments, size)


SEGMENTS = (runs(BAR, True), as_json(TRIANGLE), runs(BAR, False))


def inside_triangle():
    """By the definition: the middle of the pixel is in the triangle."""
    return np.array([[x + 0.5 > 1 and y + 0.5 > 1 and x + y + 1 < 6 for x in range(7)] for y in range(5)])


def test_masks_of_run_lengths_and_polygons():
    masks = objects(SEGMENTS).masks(SIZE)
    assert masks.dtype == bool
    assert np.array_equal(masks, [BAR, inside_triangle(), BAR])


def test_no_objects_are_an_annotation():
    nothing = Objects.none(SIZE)
    assert len(nothing) == 0
    assert nothing.has_segments
    assert nothing.masks(SIZE).shape == (0, *SIZE)


def test_masks_of_boxes_alone_are_refused():
    assert not objects().has_segments
    with pytest.raises(ValueError, match="no segment for each object"):
        objects().masks(SIZE)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match="are of an image of 7×5 pixels, not of 5×7"):
        objects(SEGMENTS).masks((7, 5))


@pytest.mark.parametrize("keep", [[2, 0], np.array([True, False, True]), []], ids=str)
def test_a_subset_keeps_all_that_belongs_together(keep):
    places = [0, 2] if isinstance(keep, np.ndarray) else keep
    found, whole = objects(SEGMENTS).subset(keep), objects(SEGMENTS)
    assert found.labels.tolist() == places
    assert found.boxes.tolist() == [whole.boxes[place].tolist() for place in places]
    assert found.areas.tolist() == [whole.areas[place] for place in places]
    assert found.crowd.tolist() == [place == 2 for place in places]
    assert found.segments == tuple(SEGMENTS[place] for place in places)
    assert found.size == SIZE


def test_segmentations_as_coco_has_them():
    assert objects(SEGMENTS).segmentation(1) == TRIANGLE
    found = objects(SEGMENTS).segmentation(0)
    assert isinstance(found, Runs)
    assert found.numbers == runs_of_mask(BAR)


@pytest.mark.parametrize("name", ["boxes", "labels", "crowd", "areas", "segments", "size"])
def test_the_content_tells_objects_apart(name):
    other = {
        name: getattr(objects(SEGMENTS), name) for name in ("boxes", "labels", "crowd", "areas", "segments", "size")
    }
    if name == "segments":
        other[name] = (SEGMENTS[2], *SEGMENTS[1:])
    elif name == "size":
        other[name] = (5, 8)
    elif name == "crowd":
        other[name] = ~other[name]
    else:
        other[name] = other[name] + 1
    assert objects(SEGMENTS).content() == objects(SEGMENTS).content()
    assert Objects(**other).content() != objects(SEGMENTS).content()


def test_they_go_to_other_processes():
    again = pickle.loads(pickle.dumps(objects(SEGMENTS)))
    assert again.content() == objects(SEGMENTS).content()


@pytest.mark.parametrize(
    "wrong",
    [{"boxes": np.zeros((2, 4))}, {"boxes": np.zeros((3, 4), np.float32)}, {"labels": np.zeros(3)},
     {"crowd": np.zeros(3, int)}, {"areas": np.zeros(4)}, {"segments": SEGMENTS[:2]}],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(wrong):
    whole = objects(SEGMENTS)
    arguments = {name: getattr(whole, name) for name in ("boxes", "labels", "crowd", "areas", "segments", "size")}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        Objects(**arguments | wrong)
