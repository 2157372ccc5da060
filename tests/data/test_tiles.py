"""Tiles cover an image once with their middles."""

import numpy as np
import pytest
from PIL import Image

from glocal.data.tiles import is_large, large_images, tiles_of


@pytest.mark.parametrize("size", [(100, 100), (101, 257), (32, 33), (33, 32), (31, 500), (64, 97)], ids=str)
@pytest.mark.parametrize("overlap", [0, 1, 8, 31])
def test_middles_are_the_image(size, overlap):
    pixels = np.arange(size[0] * size[1] * 3).reshape(*size, 3).astype(np.uint8)
    seen = np.zeros(size, int)
    for tile in tiles_of(Image.fromarray(pixels), 32, overlap):
        top, left, bottom, right = tile.box
        assert (bottom - top, right - left) == (min(32, size[0]), min(32, size[1]))
        assert np.array_equal(np.asarray(tile.load()), pixels[top:bottom, left:right])
        first, begin, last, end = tile.middle
        assert top <= first < last <= bottom
        assert left <= begin < end <= right
        seen[first:last, begin:end] += 1
    assert (seen == 1).all()


def test_neighbours_overlap():
    boxes = [tile.box for tile in tiles_of(Image.new("RGB", (200, 20)), 64, 16)]
    lefts = [left for _, left, _, _ in boxes]
    assert lefts == [0, 48, 96, 136]


@pytest.mark.parametrize(("length", "count"), [(64, 1), (65, 2), (112, 2), (113, 3), (160, 3)])
def test_there_is_no_tile_too_many(length, count):
    assert len(list(tiles_of(Image.new("RGB", (length, 10)), 64, 16))) == count


def test_a_tile_cannot_overlap_all_of_its_neighbour():
    with pytest.raises(ValueError, match="cannot overlap by 64"):
        list(tiles_of(Image.new("RGB", (200, 20)), 64, 64))


def test_only_longer_images_are_cut():
    assert is_large(Image.new("RGB", (65, 10)), 64)
    assert not is_large(Image.new("RGB", (64, 64)), 64)


def test_pillows_limit_is_lifted_for_a_while():
    before = Image.MAX_IMAGE_PIXELS
    with large_images():
        assert 10 * before < Image.MAX_IMAGE_PIXELS
    assert before == Image.MAX_IMAGE_PIXELS
