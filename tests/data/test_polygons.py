"""Polygons of label maps hold exactly the pixels of their parts."""

import tracemalloc

import numpy as np
import pytest
from skimage import filters, measure

from glocal.data import polygons as module
from glocal.data.polygons import polygons_of
from glocal.data.segments import mask_of_polygons


def random_map(seed):
    random = np.random.RandomState(seed)
    return random.randint(0, random.randint(1, 4), random.randint(1, 9, 2))


def blobs():
    noise = np.random.RandomState(0).random_sample((60, 80))
    return (filters.gaussian(noise, 2) * 40).astype(np.uint8)


MAPS = {
    "one pixel": np.zeros((1, 1), np.uint8),
    "a pixel in another class": np.pad(np.ones((1, 1), np.uint8), 2),
    "a row": np.array([[0, 0, 1, 1, 1, 0]], np.int32),
    "a column": np.array([[0, 0, 1, 1, 1, 0]], np.int32).T,
    "a hole with a part in it": np.pad(np.pad(np.pad(np.ones((2, 2), int), 1), 1, constant_values=1), 1),
    "a chessboard": np.indices((7, 8)).sum(0) % 2,
    "300 classes": np.random.RandomState(0).randint(0, 300, (20, 30)),
    "blobs": blobs(),
    **{f"random {seed}": random_map(seed) for seed in range(20)},
}


def pixels_of(ring, size):
    return mask_of_polygons([[number for corner in ring[:-1] for number in corner]], size)


@pytest.mark.parametrize("labels", MAPS.values(), ids=MAPS)
def test_the_same_pixels(labels):
    found = np.full(labels.shape, -1)
    for value, polygons in polygons_of(labels):
        for outer, *holes in polygons:
            inside = pixels_of(outer, labels.shape)
            for hole in holes:
                assert not (pixels_of(hole, labels.shape) & ~inside).any()
                inside = inside & ~pixels_of(hole, labels.shape)
            assert (found[inside] == -1).all()
            found[inside] = value
    assert np.array_equal(found, labels)


@pytest.mark.parametrize("labels", MAPS.values(), ids=MAPS)
def test_a_polygon_for_each_part(labels):
    for value, polygons in polygons_of(labels):
        assert len(polygons) == measure.label(labels == value, connectivity=1).max()


@pytest.mark.parametrize("labels", MAPS.values(), ids=MAPS)
def test_rings_are_simple_and_turn_at_each_corner(labels):
    """The outer ring runs one way, the holes the other; no corner comes twice."""
    for _, polygons in polygons_of(labels):
        for polygon in polygons:
            for place, ring in enumerate(polygon):
                x, y = np.array(ring).T
                assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() * (1 if place == 0 else -1) > 0
                assert ring[0] == ring[-1]
                assert len(set(map(tuple, ring[:-1]))) == len(ring) - 1
                steps = np.diff(np.array(ring), axis=0)
                assert ((steps == 0).sum(1) == 1).all()
                assert not (steps[1:] * steps[:-1]).any()


@pytest.mark.parametrize("pixels", [1, 100, 300])
@pytest.mark.parametrize("labels", MAPS.values(), ids=MAPS)
def test_strips_give_the_same(labels, pixels, monkeypatch):
    whole = list(polygons_of(labels))
    monkeypatch.setattr(module, "STRIP", pixels)
    assert list(polygons_of(labels)) == whole


def test_memory_does_not_grow_with_the_pixels(monkeypatch):
    monkeypatch.setattr(module, "STRIP", 2**17)
    labels = np.zeros((2000, 2000), np.uint8)
    labels[100:1900, 100:1900] = 1
    tracemalloc.start()
    assert len(dict(polygons_of(labels))) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * labels.nbytes  # a single array of runs would have eight times as much


def test_parts_that_touch_in_a_corner_are_separate():
    ((_, ground), (_, pixels)) = polygons_of(np.array([[1, 0], [0, 1]]))
    assert pixels == [[[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]], [[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]]]
    assert len(ground) == 2


def test_a_hole_that_touches_the_border_of_its_part():
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
    (_, (one, other)), (_, (polygon,)) = polygons_of(labels)
    assert [one, other] == [
        [[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]],
        [[[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]]],
    ]
    assert polygon[1:] == [one[0][::-1]]
    assert polygon[0] == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3], [0, 0]]
